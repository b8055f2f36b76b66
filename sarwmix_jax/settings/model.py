"""Settings of a model: its shape and arithmetic, checked when they are created."""

import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS
from sarwmix_jax.facts.sizes import SIZES, WINDOWS
from sarwmix_jax.settings.declarations import BelowOne, Positive, setting

CELL = 32
"""Side of a mask cell in pixels, which is also the encoder's stride."""

STAGES = 4
PATCH = CELL // 2 ** (STAGES - 1)
"""Side of a patch in pixels."""

BFLOAT16_SINCE = 8
"""Major compute capability from which NVIDIA GPUs compute in bfloat16 (CUDA C++ Programming Guide)."""

Kernel = Literal["xla", "cudnn", "fused", "auto"]

PLACES = (*(f"stage {number}" for number in range(1, STAGES + 1)), "decoder", "LayerNorm")
"""Parts of a model that have a kernel each."""

_BASE = SIZES["base"]


class Section:
    """A part of the settings; refuses values that are not among a setting's choices.

    Raises:
        UserError: The line names the setting, its value and the choices.
    """

    section: ClassVar[str]

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self)).items():
            allowed = typing.get_args(hint) if typing.get_origin(hint) is Literal else None
            if allowed and getattr(self, name) not in allowed:
                raise UserError(f"{self.section}{name} is {getattr(self, name)!r}; use one of {', '.join(allowed)}")


@dataclass(frozen=True)
class ModelSettings(Section):
    """Shape and arithmetic of one model; the defaults are the published base model.

    Parameters, LayerNorm statistics, softmax and loss are float32 whatever `dtype`. `attention="plain"` and
    `decoder="full"` switch off the exact shortcuts (skipped masks, gathered groups, half decoder).

    Raises:
        UserError: The values do not form a model; the line names them and values that do.
    """

    section: ClassVar[str] = "model."

    bands: tuple[str, ...] = setting(BANDS, "polarisations of the input, in order")
    image_size: Positive[int] = setting(128, "side in pixels to which records are resized; a multiple of 32")
    embed_dim: Positive[int] = setting(_BASE.embed_dim, "width of the first stage; each of the next three doubles it")
    depths: tuple[int, ...] = setting(_BASE.depths, "blocks of each of the four stages")
    num_heads: tuple[int, ...] = setting(_BASE.num_heads, "attention heads of each of the four stages")
    windows: tuple[int, ...] | None = setting(
        None, "window side in tokens of each of the four stages; unset: by image size"
    )
    mlp_ratio: Positive[int] = setting(4, "hidden width of the MLPs as a multiple of their input's")
    decoder_dim: Positive[int] = setting(_BASE.decoder_dim, "width of the decoder")
    decoder_depth: Positive[int] = setting(_BASE.decoder_depth, "blocks of the decoder")
    decoder_heads: Positive[int] = setting(_BASE.decoder_heads, "attention heads of the decoder")
    drop_path: BelowOne[float] = setting(0.0, "drop-path rate of the last block; it rises linearly from 0 at the first")
    dropout: BelowOne[float] = setting(0.0, "dropout rate")
    dtype: Literal["float32", "bfloat16"] = setting("float32", "type of activations and matrix products")
    recompute: Literal["none", "elementwise", "block"] = setting(
        "none",
        "what is computed again in the backward pass instead of kept in memory: LayerNorm and GELU, or whole blocks",
    )
    scan: bool | None = setting(
        None,
        "loop over equal blocks, compiled once: the run starts faster; unset: on CPUs, where it is as fast",
    )
    attention: Literal["auto", "plain"] = setting(
        "auto",
        "auto: half-length groups where that is exact; plain: always with a mask as bias",
    )
    decoder: Literal["auto", "full"] = setting(
        "auto",
        "auto: computes only the masked cells of the loss where that is exact; full: every cell",
    )
    kernel: Kernel = setting(
        "xla",
        "what computes attention (fused: and LayerNorm); cudnn (bfloat16 only) and fused need an NVIDIA GPU; "
        "auto: what is fastest there, measured when a run starts",
    )
    kernels: tuple[str, ...] | None = setting(
        None, "kernel of each of stages 1 to 4, of the decoder and of LayerNorm; unset: model.kernel"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_image_size(self.image_size)
        self._check_lengths()
        self._check_widths()
        self._check_windows()
        self._check_values()

    @property
    def grids(self) -> tuple[int, ...]:
        """Grid side in tokens per stage."""
        return tuple(self.image_size // (PATCH * 2**stage) for stage in range(STAGES))

    @property
    def window_sides(self) -> tuple[int, ...]:
        """Window side in tokens per stage: as set, or by image size."""
        return self.windows or windows_for(self.image_size)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each stage."""
        return tuple(self.embed_dim * 2**stage for stage in range(STAGES))

    @property
    def cells(self) -> int:
        """Number of mask cells of an image."""
        return (self.image_size // CELL) ** 2

    @property
    def features(self) -> int:
        """Width of the encoder's output."""
        return self.widths[-1]

    @property
    def cell_values(self) -> int:
        """Number of values in one cell of an image, all bands."""
        return CELL * CELL * len(self.bands)

    def on(self, platform: str) -> "ModelSettings":
        """The same settings with those set that depend on the devices' platform, such as "cpu" or "gpu"."""
        kernel = "xla" if self.kernel == "auto" and platform != "gpu" else self.kernel
        return replace(self, scan=platform == "cpu" if self.scan is None else self.scan, kernel=kernel)

    def kernel_of(self, place: str) -> str:
        """The kernel of one of `PLACES`; plain where `auto` has not been resolved."""
        if self.kernels is not None:
            return self.kernels[PLACES.index(place)]
        plain = self.kernel == "auto" or (self.kernel == "cudnn" and place == "LayerNorm")
        return "xla" if plain else self.kernel

    def check_device(self, name: str, capability: str | None) -> None:
        """Refuses bfloat16 on an NVIDIA GPU that has no arithmetic for it.

        Args:
            name: Name of the device.
            capability: Its compute capability, such as "9.0"; None, or another form, of what is no NVIDIA GPU.

        Raises:
            UserError: The capability is below 8.0 and `dtype` is bfloat16.
        """
        major, dot, _ = (capability or "").partition(".")
        if self.dtype == "bfloat16" and dot and major.isdigit() and int(major) < BFLOAT16_SINCE:
            raise UserError(
                f"model.dtype bfloat16 needs a GPU of compute capability {BFLOAT16_SINCE}.0 or above, and {name} has "
                f"{capability}; use --config.model.dtype=float32"
            )

    def _check_lengths(self) -> None:
        for name, values in (("depths", self.depths), ("num_heads", self.num_heads), ("windows", self.window_sides)):
            if len(values) != STAGES or min(values) < 1:
                raise UserError(f"model.{name} is {values}; give {STAGES} positive numbers, one per stage")

    def _check_widths(self) -> None:
        stages = [(f"stage {s + 1}", *pair) for s, pair in enumerate(zip(self.widths, self.num_heads, strict=True))]
        named = [(*stage, "model.embed_dim", "model.num_heads") for stage in stages]
        decoder = ("the decoder", self.decoder_dim, self.decoder_heads, "model.decoder_dim", "model.decoder_heads")
        for place, width, heads, of_width, of_heads in [*named, decoder]:
            if width < 4 or width % 4:
                raise UserError(f"width {width} of {place} is not a positive multiple of 4; change {of_width}")
            if heads < 1 or width % heads:
                raise UserError(
                    f"{heads} heads do not divide the width {width} of {place}; change {of_heads} or {of_width}"
                )

    def _check_windows(self) -> None:
        for stage, (window, grid) in enumerate(zip(self.window_sides, self.grids, strict=True)):
            if window > grid or grid % window:
                raise UserError(
                    f"window {window} of stage {stage + 1} does not divide its grid of {grid} tokens at "
                    f"{self.image_size} px; use {window_for(window, grid)} in model.windows"
                )

    def _check_values(self) -> None:
        if self.kernels is not None and not _are_kernels(self.kernels):
            raise UserError(
                f"model.kernels is {','.join(self.kernels)}; give xla, cudnn or fused for each of {', '.join(PLACES)} "
                "(which has no cudnn)"
            )
        if "cudnn" in (self.kernel, *(self.kernels or ())) and self.dtype == "float32":
            raise UserError("model.kernel cudnn cannot compute in model.dtype float32; use bfloat16, or kernel xla")
        for name in ("drop_path", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"model.{name} is {getattr(self, name)}; use a rate from 0 to below 1")
        if min(len(self.bands), self.mlp_ratio, self.decoder_depth) < 1 or len(set(self.bands)) < len(self.bands):
            raise UserError("model.bands, model.mlp_ratio and model.decoder_depth must be at least 1, each band once")


def _are_kernels(kernels: tuple[str, ...]) -> bool:
    attending = {"xla", "cudnn", "fused"}
    return len(kernels) == len(PLACES) and set(kernels) <= attending and kernels[-1] != "cudnn"


def check_image_size(image_size: int) -> None:
    """Raises UserError unless the side in pixels is a positive multiple of the cell."""
    if image_size < CELL or image_size % CELL:
        below = max(image_size // CELL, 1) * CELL
        raise UserError(
            f"image side {image_size} is not a multiple of {CELL}; use {below} or {below + CELL} as model.image_size"
        )


def window_for(wanted: int, grid: int) -> int:
    """The wanted window side if it divides the grid, else the largest divisor of the grid below it."""
    return next(w for w in range(min(wanted, grid), 0, -1) if grid % w == 0)


def windows_for(image_size: int) -> tuple[int, ...]:
    """Window side per stage: the published table, or for another side the 128-px windows cut to divisors."""
    check_image_size(image_size)
    if image_size in WINDOWS:
        return WINDOWS[image_size]
    grids = (image_size // (PATCH * 2**stage) for stage in range(STAGES))
    return tuple(window_for(w, g) for w, g in zip(WINDOWS[128], grids, strict=True))


def published(size: str, image_size: int = 128, **changes: Any) -> ModelSettings:
    """Settings of a published size ("base", "large", "huge") at an image side in pixels.

    Raises:
        UserError: The size is unknown or the side does not fit.
    """
    if size not in SIZES:
        raise UserError(f"model size {size!r} is unknown; use one of {', '.join(SIZES)}")
    return ModelSettings(**asdict(SIZES[size]) | {"image_size": image_size} | changes)


def described_model(described: Mapping[str, Any], **changes: Any) -> ModelSettings:
    """Settings from a checkpoint's description, for inference.

    They have neither dropout nor drop path, no scan (stored parameters have one entry per block), and attention that
    runs on any device.

    Raises:
        UserError: It has settings that this version of the package does not know.
    """
    if unknown := sorted(set(described) - set(ModelSettings.__dataclass_fields__)):
        raise UserError(f"the checkpoint has unknown model settings ({', '.join(unknown)}); update sarwmix_jax")
    values: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in described.items()}
    trained = {"drop_path": 0.0, "dropout": 0.0, "scan": False, "recompute": "none", "kernel": "xla"}
    trained |= {"kernels": None}
    return ModelSettings(**values | trained | changes)
