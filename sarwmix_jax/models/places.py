"""The parts of a model that attend, and which kernels can compute them; of interest on GPUs alone."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from sarwmix_jax.errors import UserError
from sarwmix_jax.models.kernels import REMEDY
from sarwmix_jax.models.tokens import stage_layout
from sarwmix_jax.settings.model import PLACES, STAGES, ModelSettings


def check_kernel(settings: ModelSettings, platform: str) -> None:
    """Refuses a kernel that this machine does not support, or that cannot compute every part of the model.

    Args:
        settings: Shape and arithmetic of the model.
        platform: That of the devices, such as "cpu" or "gpu".

    Raises:
        UserError: The kernel cannot be used; the line states why and what to use instead.
    """
    name, remedy = ("kernel", REMEDY) if settings.kernels is None else ("kernels", "change --config.model.kernels")
    used = {place: settings.kernel_of(place) for place in PLACES}
    if special := sorted({kernel for kernel in used.values() if kernel != "xla"}) if platform != "gpu" else []:
        raise UserError(f"model.{name} {special[0]} needs a GPU and this machine computes on {platform}; {remedy}")
    for place in places(settings, "any"):
        if reason := refusal(used[place.name], place, settings.dtype):
            raise UserError(f"model.{name} {used[place.name]} cannot compute {place.title}: {reason}; {remedy}")


class Place(NamedTuple):
    """A part of a model that attends, with what kernels depend on.

    Attributes:
        name: "stage 1" to "stage 4", or "decoder".
        windows: Windows of an image.
        tokens: Tokens of a window.
        groups: Different biases; 1 where all windows share one, 0 without any.
        heads: Number of heads.
        depth: Width of a head.
    """

    name: str
    windows: int
    tokens: int
    groups: int
    heads: int
    depth: int

    @property
    def title(self) -> str:
        """The name in a sentence."""
        return "the decoder" if self.name == "decoder" else self.name


Masks = Literal["none", "half", "any"]
"""Of a model's batches: none, as in finetuning; always half of the cells; or any share."""


def places(settings: ModelSettings, masks: Masks = "none") -> tuple[Place, ...]:
    """All parts of a model that attend, with windows as the encoder forms them; without masks there is no decoder."""
    found = []
    for stage, (grid, window) in enumerate(zip(settings.grids, settings.window_sides, strict=True)):
        layout, heads, shortcuts = stage_layout(grid, window), settings.num_heads[stage], settings.attention == "auto"
        windows, tokens, groups = layout.windows, window**2, layout.windows
        if masks == "none" or (shortcuts and 2 ** (STAGES - 1 - stage) % window == 0):
            groups = 1
        elif masks == "half" and shortcuts and layout.whole:
            windows, tokens, groups = 2, tokens // 2, 2
        found.append(Place(f"stage {stage + 1}", windows, tokens, groups, heads, settings.widths[stage] // heads))
    heads = settings.decoder_heads
    decoder = Place("decoder", 2, settings.cells, 0, heads, settings.decoder_dim // heads)
    return (*found, *([] if masks == "none" else [decoder]))


def refusal(kernel: str, place: Place, dtype: str) -> str | None:
    """Why a kernel cannot compute a part of a model, or None where it can."""
    if kernel == "cudnn":
        odd = place.depth % 8 or place.depth > 128
        return f"a head depth of {place.depth} is not a multiple of 8 up to 128" if odd else None
    if kernel == "xla":
        return None
    try:
        from sarwmix_jax.models.fused_attention import unsupported
    except ImportError:
        return f"jax {jax.__version__} no longer has Pallas' Triton backend"
    packed = 3 * place.heads * place.depth
    return unsupported(jax.ShapeDtypeStruct((1, place.tokens, packed), jnp.dtype(dtype)), place.heads)
