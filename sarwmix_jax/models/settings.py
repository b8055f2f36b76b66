"""Settings of a model: plain, frozen data that fix every shape."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS
from sarwmix_jax.facts.sizes import SIZES, WINDOWS

CELL = 32
"""Side of a mask cell in pixels, which is also the encoder's stride."""

STAGES = 4

Kernel = Literal["xla", "cudnn", "fused"]


@dataclass(frozen=True)
class ModelSettings:
    """Shape and arithmetic of one model.

    `windows` are window sides in tokens per stage, at most the stage's grid side. `dtype` is that of activations and
    matrix products; parameters, LayerNorm statistics, softmax and loss stay float32. `recompute` says what the backward
    pass computes again instead of keeping it: nothing, LayerNorm and GELU ("elementwise"), or each whole block. `scan`
    compiles the equal blocks of a stage once and loops over them. `attention="plain"` and `decoder="full"` switch off
    the exact shortcuts (skipped masks, gathered groups, half decoder). `kernel` is what computes attention: XLA, cuDNN,
    or the project's own fused kernel; the last two need a GPU.

    Raises:
        UserError: If the values do not make a model; the line says which and what would.
    """

    embed_dim: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    windows: tuple[int, ...]
    image_size: int = 128
    patch_size: int = 4
    bands: int = len(BANDS)
    mlp_ratio: int = 4
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    drop_path: float = 0.0
    dropout: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    recompute: Literal["none", "elementwise", "block"] = "none"
    scan: bool = False
    attention: Literal["auto", "plain"] = "auto"
    decoder: Literal["auto", "full"] = "auto"
    kernel: Kernel = "xla"

    def __post_init__(self) -> None:
        check_image_size(self.image_size)
        self._check_lengths()
        self._check_widths()
        self._check_windows()
        self._check_choices()

    @property
    def grids(self) -> tuple[int, ...]:
        """Grid side in tokens per stage."""
        return stage_grids(self.image_size, self.patch_size)

    @property
    def cells(self) -> int:
        """Number of mask cells of an image."""
        return (self.image_size // CELL) ** 2

    @property
    def features(self) -> int:
        """Width of the encoder's output."""
        return self.embed_dim * 2 ** (STAGES - 1)

    @property
    def cell_values(self) -> int:
        """Number of values in one cell of an image, all bands."""
        return CELL * CELL * self.bands

    def _check_lengths(self) -> None:
        for name in ("depths", "num_heads", "windows"):
            values = getattr(self, name)
            if len(values) != STAGES or min(values) < 1:
                raise UserError(f"model.{name} is {values}; give {STAGES} positive numbers, one a stage")
        if self.patch_size * 2 ** (STAGES - 1) != CELL:
            raise UserError(
                f"model.patch_size is {self.patch_size}; only {CELL // 2 ** (STAGES - 1)} gives {CELL}-pixel cells"
            )

    def _check_widths(self) -> None:
        widths = [self.embed_dim * 2**stage for stage in range(STAGES)]
        named = [(f"stage {s + 1}", w, h) for s, (w, h) in enumerate(zip(widths, self.num_heads, strict=True))]
        for place, width, heads in [*named, ("the decoder", self.decoder_dim, self.decoder_heads)]:
            if width < 4 or width % 4:
                raise UserError(
                    f"width {width} of {place} is not a positive multiple of 4; change embed_dim or decoder_dim"
                )
            if heads < 1 or width % heads:
                raise UserError(
                    f"{heads} heads do not divide the width {width} of {place}; change the heads or the width"
                )

    def _check_windows(self) -> None:
        for stage, (window, grid) in enumerate(zip(self.windows, self.grids, strict=True)):
            if window > grid or grid % window:
                raise UserError(
                    f"window {window} of stage {stage + 1} does not divide its grid of {grid} tokens at "
                    f"{self.image_size} px; use {window_for(window, grid)}"
                )

    def _check_choices(self) -> None:
        choices = {
            "dtype": ("float32", "bfloat16"),
            "recompute": ("none", "elementwise", "block"),
            "attention": ("auto", "plain"),
            "decoder": ("auto", "full"),
            "kernel": get_args(Kernel),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"model.{name} is {getattr(self, name)!r}; use one of {', '.join(allowed)}")
        if self.kernel == "cudnn" and self.dtype == "float32":
            raise UserError("model.kernel cudnn cannot compute in model.dtype float32; use bfloat16, or kernel xla")
        for name in ("drop_path", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"model.{name} is {getattr(self, name)}; use a rate from 0 to below 1")
        if min(self.bands, self.mlp_ratio, self.decoder_depth) < 1:
            raise UserError("model.bands, mlp_ratio and decoder_depth must be at least 1")


def from_description(described: Mapping[str, Any], **changes: Any) -> ModelSettings:
    """Settings from a checkpoint's description, for using the trained model.

    There is no dropout and no drop path then, no scan (stored parameters have one entry a block), and attention that
    runs anywhere.

    Raises:
        UserError: It has other names than this version of the package knows.
    """
    names = {field.name for field in fields(ModelSettings)}
    if unknown := sorted(set(described) - names):
        raise UserError(f"the checkpoint has unknown model settings ({', '.join(unknown)}); update sarwmix_jax")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in described.items()
    }
    trained = {"drop_path": 0.0, "dropout": 0.0, "scan": False, "recompute": "none", "kernel": "xla"}
    return ModelSettings(**values | trained | changes)


def check_image_size(image_size: int) -> None:
    """Raises UserError unless the side in pixels is a positive multiple of the cell."""
    if image_size < CELL or image_size % CELL:
        below = max(image_size // CELL, 1) * CELL
        raise UserError(f"image side {image_size} is not a multiple of {CELL}; use {below} or {below + CELL}")


def stage_grids(image_size: int, patch_size: int = 4) -> tuple[int, ...]:
    """Grid side in tokens per stage for an image side in pixels."""
    return tuple(image_size // (patch_size * 2**stage) for stage in range(STAGES))


def window_for(wanted: int, grid: int) -> int:
    """The wanted window side if it divides the grid, else the largest divisor of the grid below it."""
    return next(w for w in range(min(wanted, grid), 0, -1) if grid % w == 0)


def windows_for(image_size: int, patch_size: int = 4) -> tuple[int, ...]:
    """Window side per stage: the published table, or for another side the 128-px windows cut to divisors."""
    check_image_size(image_size)
    if image_size in WINDOWS:
        return WINDOWS[image_size]
    return tuple(window_for(w, g) for w, g in zip(WINDOWS[128], stage_grids(image_size, patch_size), strict=True))


def published(size: str, image_size: int = 128, **changes: Any) -> ModelSettings:
    """Settings of a published size ("base", "large", "huge") at an image side in pixels.

    Raises:
        UserError: If the size has no such name or the side does not fit.
    """
    if size not in SIZES:
        raise UserError(f"model size {size!r} is unknown; use one of {', '.join(SIZES)}")
    s = SIZES[size]
    settings = ModelSettings(
        embed_dim=s.embed_dim,
        depths=s.depths,
        num_heads=s.num_heads,
        windows=windows_for(image_size),
        image_size=image_size,
        decoder_dim=s.decoder_dim,
        decoder_depth=s.decoder_depth,
        decoder_heads=s.decoder_heads,
    )
    return replace(settings, **changes)
