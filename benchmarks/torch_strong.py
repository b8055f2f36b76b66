"""The strong PyTorch peer: the parameters of the plain model, computed the way that is fast.

Exact shortcuts only: pixels are mixed instead of tokens, the patch convolution is a matrix product, tokens stand in
windows throughout a stage, one bias serves a block for the whole batch, windows within one mask cell get no mask, and
the decoder's last block and prediction run only where they are read. Activations stay in the type that the dense
layers give under autocast; LayerNorm and softmax compute in float32.

The two groups of a mask are not gathered here: a fused kernel works on tiles of 64 queries, so halves of 32 tokens
would leave it as much to do.
"""

from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.torch_reference import (
    FORBIDDEN,
    Attention,
    Block,
    Encoder,
    PatchEmbed,
    PatchMerging,
    TorchClassifier,
    TorchMixMAE,
    WindowAttention,
    drop_path,
    stretch,
)
from sarwmix_jax.settings.model import STAGES, ModelSettings


def fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """(batch, heads, n, depth) by PyTorch's fused kernels; `bias` (heads, queries, keys) is shared by the batch."""
    mask = None if bias is None else bias.to(q.dtype).expand(q.shape[0], -1, -1, -1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def product_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """The same as two matrix products and a softmax, for a compiler to fuse."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    logits = logits if bias is None else logits + bias.to(q.dtype)
    return logits.softmax(dim=-1).to(v.dtype) @ v


ATTENTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "fused": fused_attention,
    "products": product_attention,
}


def normed(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """LayerNorm whose result keeps the type of its input, which autocast would widen."""
    return layer(x).to(x.dtype)


def in_windows(x: Tensor, window: int) -> Tensor:
    """(batch, tokens, width) row-major to (batch, windows, n, width)."""
    side = round(x.shape[1] ** 0.5) // window
    return rearrange(x, "b (Y y X x) c -> b (Y X) (y x) c", Y=side, y=window, x=window)


def in_rows(x: Tensor, window: int) -> Tensor:
    """Undoes `in_windows`."""
    side = round(x.shape[1] ** 0.5)
    return rearrange(x, "b (Y X) (y x) c -> b (Y y X x) c", Y=side, y=window)


def forbidden_pairs(mask: Tensor | None, settings: ModelSettings, stage: int) -> Tensor | None:
    """(windows, n, n) to add to the logits of a stage; None where each of its windows lies in one mask cell."""
    cell_side, window = 2 ** (STAGES - 1 - stage), settings.window_sides[stage]
    if mask is None or cell_side % window == 0:
        return None
    bits = in_windows(stretch(mask, settings.grids[stage]).reshape(1, -1, 1), window)[0, ..., 0]
    return torch.where(bits[:, :, None] == bits[:, None, :], 0.0, FORBIDDEN)


def position_bias(layer: WindowAttention) -> Tensor:
    """(heads, n, n), contiguous."""
    index = layer.relative_position_index
    return layer.relative_position_bias_table.t().index_select(1, index.reshape(-1)).reshape(-1, *index.shape)


def window_attention(layer: WindowAttention, x: Tensor, forbidden: Tensor | None, attend: Callable) -> Tensor:
    """Attention within windows, (batch, windows, n, width)."""
    qkv, bias, heads, windows = layer.qkv(x), position_bias(layer), layer.heads, x.shape[1]
    if forbidden is None or windows == 1:
        bias = bias if forbidden is None else bias + forbidden
        q, k, v = rearrange(qkv, "b w n (p h d) -> p (b w) h n d", p=3, h=heads)
        return layer.proj(rearrange(attend(q, k, v, bias), "(b w) h n d -> b w n (h d)", w=windows))
    # windows differ in their mask: as further heads they still share one bias over the batch
    bias = (bias + forbidden[:, None]).flatten(0, 1)
    q, k, v = rearrange(qkv, "b w n (p h d) -> p b (w h) n d", p=3, h=heads)
    return layer.proj(rearrange(attend(q, k, v, bias), "b (w h) n d -> b w n (h d)", w=windows))


def encoder_block(block: Block, x: Tensor, forbidden: Tensor | None, draws: Tensor | None, attend: Callable) -> Tensor:
    """A block of the encoder, (batch, windows, n, width); `draws` (2, batch) switch drop path on."""
    first, second = (None, None) if draws is None else draws
    x = x + drop_path(window_attention(block.attn, normed(block.norm1, x), forbidden, attend), first, block.rate)
    return x + drop_path(block.mlp(normed(block.norm2, x)), second, block.rate)


def embedded(layer: PatchEmbed, images: Tensor, window: int) -> Tensor:
    """Patch tokens in windows, by a matrix product over the pixels of each patch."""
    p = layer.proj.kernel_size[0]
    patches = rearrange(images, "b c (Y y p) (X x q) -> b (Y X) (y x) (c p q)", y=window, x=window, p=p, q=p)
    return normed(layer.norm, F.linear(patches, layer.proj.weight.flatten(1), layer.proj.bias))


def merged(layer: PatchMerging, x: Tensor, window: int, next_window: int) -> Tensor:
    """From the windows of one stage to those of the next."""
    x = in_rows(x, window)
    side = round(x.shape[1] ** 0.5) // 2
    x = rearrange(x, "b (y r x q) c -> b (y x) (q r c)", y=side, r=2, q=2)
    return layer.reduction(normed(layer.norm, in_windows(x, next_window)))


def mixed(images: Tensor, mask: Tensor) -> Tensor:
    """Pixels of the images where the mask is 0, of the reversed batch where it is 1."""
    pixels = stretch(mask, images.shape[-1]).reshape(images.shape[-2:])
    return torch.where(pixels == 1, images.flip(0), images)


class Strong(Encoder):
    """What both models share; stands before the plain model among the bases."""

    def __init__(self, settings: ModelSettings, *classes: int, attention: str = "fused"):
        super().__init__(settings, *classes)
        self.settings, self.attend = settings, ATTENTIONS[attention]

    def encode(self, images: Tensor, mask: Tensor | None = None, draws: Tensor | None = None) -> Tensor:
        """(batch, cells, features), row-major; the arguments are those of the plain model."""
        windows = self.settings.window_sides
        images = images if mask is None else mixed(images, mask)
        x = embedded(self.patch_embed, images, windows[0])
        x = x + in_windows(self.absolute_pos_embed, windows[0]).to(x.dtype)
        for number, stage in enumerate(self.layers):
            forbidden = forbidden_pairs(mask, self.settings, number)
            for k, block in enumerate(stage.blocks, stage.start):
                x = encoder_block(block, x, forbidden, None if draws is None else draws[k], self.attend)
            if stage.downsample is not None:
                x = merged(stage.downsample, x, windows[number], windows[number + 1])
        return in_rows(normed(self.norm, x), windows[-1])


class StrongMixMAE(Strong, TorchMixMAE):
    """The masked autoencoder, fast."""

    def reconstruct(self, images: Tensor, mask: Tensor) -> Tensor:
        """(batch, cells, values): every cell from the sequence in which it was hidden; only that is computed."""
        x = self.sequences(images, mask)
        *all_but_last, last = self.decoder_blocks
        for block in all_but_last:
            x = self.decoder_block(block, x)
        x = self.decoder_pred(normed(self.decoder_norm, self.half_block(last, x, mask)))
        return torch.where(mask[:, None] == 1, x, x.flip(0))

    def sequences(self, images: Tensor, mask: Tensor) -> Tensor:
        """(batch, 2, cells, width): the decoder's two inputs."""
        x, own = self.decoder_embed(self.encode(images, mask)), mask[:, None] == 0
        token = self.mask_token.to(x.dtype)
        x = torch.stack([torch.where(own, x, token), torch.where(own, token, x)], dim=1)
        return x + self.decoder_pos_embed.to(x.dtype)

    def decoder_block(self, block: Block, x: Tensor) -> Tensor:
        """A block over whole sequences, (batch, 2, cells, width)."""
        x = x + sequence_attention(block.attn, normed(block.norm1, x), self.attend)
        return x + block.mlp(normed(block.norm2, x))

    def half_block(self, block: Block, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, cells, width): sequence 1 at masked cells, sequence 2 at the others."""
        x_read, hidden = read_cells(x, mask), mask == 1
        sees = torch.stack([hidden, ~hidden], dim=1)[..., None].expand(-1, -1, mask.numel()).flatten(1)
        bias = torch.where(sees, 0.0, FORBIDDEN)[None]
        x = normed(block.norm1, x)
        layer, width = block.attn, x.shape[-1]
        q = F.linear(read_cells(x, mask), layer.qkv.weight[:width], layer.qkv.bias[:width])
        q = rearrange(q, "b n (h d) -> b h n d", h=layer.heads)
        kv = F.linear(x, layer.qkv.weight[width:], layer.qkv.bias[width:])
        k, v = rearrange(kv, "b s n (p h d) -> p b h (s n) d", p=2, h=layer.heads)
        seen = self.attend(q, k, v, bias.expand(layer.heads, -1, -1))
        x = x_read + layer.proj(rearrange(seen, "b h n d -> b n (h d)"))
        return x + block.mlp(normed(block.norm2, x))


def read_cells(x: Tensor, mask: Tensor) -> Tensor:
    """(batch, 2, cells, width) to (batch, cells, width): of sequence 1 the masked cells, of sequence 2 the others."""
    return torch.where(mask[:, None] == 1, x[:, 0], x[:, 1])


def sequence_attention(layer: Attention, x: Tensor, attend: Callable) -> Tensor:
    """Attention of each sequence to itself, (batch, 2, cells, width)."""
    q, k, v = rearrange(layer.qkv(x), "b s n (p h d) -> p (b s) h n d", p=3, h=layer.heads)
    return layer.proj(rearrange(attend(q, k, v, None), "(b s) h n d -> b s n (h d)", s=2))


class StrongClassifier(Strong, TorchClassifier):
    """Encoder, mean over tokens, Linear, fast."""


def make_peer(peer: str, settings: ModelSettings, classes: int | None = None, **changes: Any) -> nn.Module:
    """The plain (`eager`) or the fast (`strong`) autoencoder, or with a number of classes the classifier."""
    kinds = {"eager": (TorchMixMAE, TorchClassifier), "strong": (StrongMixMAE, StrongClassifier)}[peer]
    return kinds[0](settings, **changes) if classes is None else kinds[1](settings, classes, **changes)
