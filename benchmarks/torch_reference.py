"""The model in plain PyTorch: a reference for parity tests and the peer in comparisons of speed.

Written from the description of the method alone, in the most direct way; names of parameters are those of the released
files, so their state dicts load. The code is not optimised, but attention may be switched to fused kernels.
"""

from collections import OrderedDict

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional as F

from sarwmix_jax.settings.model import CELL, PATCH, STAGES, ModelSettings

FORBIDDEN = -1e9
"""Added to the logits of pairs of tokens that came from different images."""


def sine_cosine(grid: int, width: int) -> Tensor:
    """(1, grid*grid, width): sines and cosines of the column, then of the row."""
    omega = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    parts = [wave(axis.reshape(-1, 1) * omega) for axis in (columns, rows) for wave in (torch.sin, torch.cos)]
    return torch.cat(parts, dim=1).float()[None]


def relative_index(window: int) -> Tensor:
    """Row of the bias table for every (query, key) pair of a window."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    places = torch.stack([y.reshape(-1), x.reshape(-1)], dim=1)
    difference = places[:, None] - places[None, :] + window - 1
    return difference[..., 0] * (2 * window - 1) + difference[..., 1]


def windows_of(x: Tensor, window: int) -> Tensor:
    """(batch, grid*grid, width) row-major to (batch, windows, window*window, width)."""
    side = round(x.shape[1] ** 0.5) // window
    return rearrange(x, "b (Y y X x) c -> b (Y X) (y x) c", Y=side, y=window, x=window)


def from_windows(x: Tensor, window: int) -> Tensor:
    """Undoes `windows_of`."""
    side = round(x.shape[1] ** 0.5)
    return rearrange(x, "b (Y X) (y x) c -> b (Y y X x) c", Y=side, y=window)


def stretch(mask: Tensor, grid: int) -> Tensor:
    """A row-major mask over the cells, repeated for a finer grid: (grid*grid,)."""
    side = round(mask.numel() ** 0.5)
    return repeat(mask, "(y x) -> (y r x q)", y=side, r=grid // side, q=grid // side)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """(batch, heads, n, depth), with a bias (heads, n, n) on the logits or without."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return (logits if bias is None else logits + bias).softmax(dim=-1) @ v


def fused_attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """The same by PyTorch's fused kernels."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))


class Attention(nn.Module):
    """Self-attention over the whole grid, or inside windows with a relative position bias.

    Windows are treated as further heads, so that one bias serves the whole batch.

    Attributes:
        attend: `attend`, or a faster function with the same result.
    """

    def __init__(self, width: int, heads: int, window: int | None = None):
        super().__init__()
        self.heads, self.window, self.attend = heads, window, attend
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        if window is not None:
            self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
            self.register_buffer("relative_position_index", relative_index(window))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(batch, grid*grid, width); with a mask, tokens attend only to those with the same bit."""
        grid = round(x.shape[1] ** 0.5)
        x = windows_of(x, self.window or grid)
        bias = None if self.window is None else self.bias(x.shape[1], grid, mask)
        q, k, v = rearrange(self.qkv(x), "b w n (p h d) -> p b (w h) n d", p=3, h=self.heads)
        x = rearrange(self.attend(q, k, v, bias), "b (w h) n d -> b w n (h d)", h=self.heads)
        return from_windows(self.proj(x), self.window or grid)

    def bias(self, windows: int, grid: int, mask: Tensor | None) -> Tensor:
        """(windows*heads, n, n): bias for the tokens' relative position and, with a mask, for their bits."""
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1).repeat(windows, 1, 1)
        if mask is None:
            return bias
        bits = windows_of(stretch(mask, grid).reshape(1, -1, 1), self.window)[0, ..., 0]
        forbidden = (bits[:, :, None] != bits[:, None, :]) * FORBIDDEN
        return bias + forbidden.repeat_interleave(self.heads, dim=0)


def drop_path(branch: Tensor, draws: Tensor | None, rate: float) -> Tensor:
    """Drops a branch for the samples whose uniform draw is below the rate; the others are divided by 1 - rate."""
    if draws is None or rate == 0:
        return branch
    factors = (draws >= rate).to(branch.dtype) / (1 - rate)
    return branch * factors.reshape(-1, *[1] * (branch.ndim - 1))


class Block(nn.Module):
    """Pre-norm attention and MLP. The encoder's blocks have a window and take a mask, the decoder's do not."""

    def __init__(self, width: int, heads: int, ratio: int, window: int | None = None, rate: float = 0.0):
        super().__init__()
        self.rate = rate
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        fc1, fc2 = nn.Linear(width, ratio * width), nn.Linear(ratio * width, width)
        self.mlp = nn.Sequential(OrderedDict(fc1=fc1, gelu=nn.GELU(), fc2=fc2))

    def forward(self, x: Tensor, mask: Tensor | None = None, draws: Tensor | None = None) -> Tensor:
        """Transforms tokens; `draws` (2, batch), uniform in 0..1, decide the drop path of the two branches."""
        first, second = (None, None) if draws is None else draws
        x = x + drop_path(self.attn(self.norm1(x), mask), first, self.rate)
        return x + drop_path(self.mlp(self.norm2(x)), second, self.rate)


class PatchEmbed(nn.Module):
    """A convolution over patches, LayerNorm."""

    def __init__(self, settings: ModelSettings):
        super().__init__()
        self.proj = nn.Conv2d(len(settings.bands), settings.embed_dim, PATCH, PATCH)
        self.norm = nn.LayerNorm(settings.embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Row-major tokens."""
        return self.norm(self.proj(images).flatten(2).transpose(1, 2))


class PatchMerging(nn.Module):
    """Four neighbours to one token of twice the width."""

    def __init__(self, width: int):
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, grid*grid, width) to (batch, grid*grid/4, 2*width)."""
        side = round(x.shape[1] ** 0.5) // 2
        return self.reduction(self.norm(rearrange(x, "b (y r x q) c -> b (y x) (q r c)", y=side, r=2, q=2)))


class Stage(nn.Module):
    """Blocks, then merging except after the last stage."""

    def __init__(self, stage: int, settings: ModelSettings):
        super().__init__()
        width, heads, window = settings.embed_dim * 2**stage, settings.num_heads[stage], settings.window_sides[stage]
        self.start, last = sum(settings.depths[:stage]), max(sum(settings.depths) - 1, 1)
        rates = [settings.drop_path * (self.start + block) / last for block in range(settings.depths[stage])]
        self.blocks = nn.ModuleList([Block(width, heads, settings.mlp_ratio, window, rate) for rate in rates])
        self.downsample = PatchMerging(width) if stage < STAGES - 1 else None

    def forward(self, x: Tensor, mask: Tensor | None, draws: Tensor | None = None) -> Tensor:
        """Tokens of this stage to tokens of the next."""
        for number, block in enumerate(self.blocks, self.start):
            x = block(x, mask, None if draws is None else draws[number])
        return x if self.downsample is None else self.downsample(x)


class Encoder(nn.Module):
    """Common part of the pretraining model and the classifier."""

    def add_encoder(self, settings: ModelSettings) -> None:
        """Adds the encoder's modules, after the parameters of the model itself."""
        self.patch_embed = PatchEmbed(settings)
        self.layers = nn.ModuleList([Stage(stage, settings) for stage in range(STAGES)])
        self.norm = nn.LayerNorm(settings.features)

    def encode(self, images: Tensor, mask: Tensor | None = None, draws: Tensor | None = None) -> Tensor:
        """(batch, cells, features); with a mask over the cells, of images mixed with the reversed batch.

        `draws` (blocks, 2, batch), uniform in 0..1, enable drop path.
        """
        x = self.patch_embed(images)
        if mask is not None:
            bits = stretch(mask, round(x.shape[1] ** 0.5))[None, :, None]
            x = x * (1 - bits) + x.flip(0) * bits
        x = x + self.absolute_pos_embed
        for layer in self.layers:
            x = layer(x, mask, draws)
        return self.norm(x)


def fixed(table: Tensor) -> nn.Parameter:
    """A table that is part of the state dict but not trained."""
    return nn.Parameter(table, requires_grad=False)


class TorchMixMAE(Encoder):
    """The masked autoencoder."""

    def __init__(self, settings: ModelSettings):
        super().__init__()
        width = settings.decoder_dim
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.absolute_pos_embed = fixed(sine_cosine(settings.grids[0], settings.embed_dim))
        self.decoder_pos_embed = fixed(sine_cosine(settings.image_size // CELL, width))
        self.add_encoder(settings)
        self.decoder_embed = nn.Linear(settings.features, width)
        blocks = (Block(width, settings.decoder_heads, settings.mlp_ratio) for _ in range(settings.decoder_depth))
        self.decoder_blocks = nn.ModuleList(blocks)
        self.decoder_norm = nn.LayerNorm(width)
        self.decoder_pred = nn.Linear(width, settings.cell_values)

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        """(2*batch, cells, values): sequence 1 of all images, then sequence 2."""
        x, bits = self.decoder_embed(self.encode(images, mask)), mask[None, :, None]
        first = x * (1 - bits) + self.mask_token * bits
        second = x * bits + self.mask_token * (1 - bits)
        x = torch.cat([first, second]) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))

    def reconstruct(self, images: Tensor, mask: Tensor) -> Tensor:
        """(batch, cells, values): every cell from the sequence in which it was missing."""
        (first, second), bits = self(images, mask).chunk(2), mask[None, :, None]
        return first * bits + second.flip(0) * (1 - bits)


class TorchClassifier(Encoder):
    """Encoder, mean over tokens, Linear."""

    def __init__(self, settings: ModelSettings, classes: int):
        super().__init__()
        self.absolute_pos_embed = fixed(sine_cosine(settings.grids[0], settings.embed_dim))
        self.add_encoder(settings)
        self.head = nn.Linear(settings.features, classes)

    def forward(self, images: Tensor, draws: Tensor | None = None) -> Tensor:
        """Logits."""
        return self.head(self.encode(images, draws=draws).mean(dim=1))


def cells_of(images: Tensor) -> Tensor:
    """(batch, cells, values): values ordered row, column, band."""
    return rearrange(images, "b c (Y y) (X x) -> b (Y X) (y x c)", y=CELL, x=CELL)


def pretraining_loss(model: TorchMixMAE, images: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """Mean weighted squared error of standardised images, normalised cell by cell."""
    target = cells_of(images)
    deviation = (target.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    target = (target - target.mean(dim=-1, keepdim=True)) / deviation
    error = model.reconstruct(images, mask) - target
    return (cells_of(weights) * error**2).mean()


def per_channel_weights(images: Tensor) -> Tensor:
    """exp(1 - power scaled to 0..1 per image and band), with power 10^(x/10) of the values given."""
    power = 10.0 ** (images / 10)
    low, high = power.amin(dim=(2, 3), keepdim=True), power.amax(dim=(2, 3), keepdim=True)
    return torch.exp(1 - (power - low) / (high - low + 1e-6))
