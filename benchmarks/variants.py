"""Named variants of ours: changes of model settings, and compiler flags."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sarwmix_jax.errors import UserError

XLA = "xla"
"""In `--variants NAME:xla=FLAG`, what is added to XLA_FLAGS; several flags are joined by `+`."""


@dataclass(frozen=True)
class Variant:
    """Changes to the default.

    Attributes:
        name: As the report calls it.
        changes: Values of `ModelSettings` fields.
        if_known: The same for fields that a version may lack or give another type.
        xla_flags: Added to XLA_FLAGS.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    if_known: Mapping[str, Any] = field(default_factory=dict)
    xla_flags: tuple[str, ...] = ()


DEFAULT = Variant("default")
PLAIN = Variant(
    "plain",
    {"attention": "plain", "decoder": "full"},
    # Off by nature where a version does not have them.
    {"scan": False, "kernel": "xla", "recompute": "none"},
)

PREDEFINED = {
    variant.name: variant
    for variant in (
        Variant("fused kernel", {"kernel": "fused"}),
        Variant("cudnn attention", {"kernel": "cudnn"}),
        Variant("recompute elementwise", {"recompute": "elementwise"}),
        Variant("latency hiding", xla_flags=("--xla_gpu_enable_latency_hiding_scheduler=true",)),
        Variant("no triton gemm", xla_flags=("--xla_gpu_enable_triton_gemm=false",)),
        Variant("no command buffers", xla_flags=("--xla_gpu_enable_command_buffer=",)),
        Variant("scan", {"scan": True}),
        Variant("recompute blocks", {"recompute": "block"}),
        Variant("autotune 0", xla_flags=("--xla_gpu_autotune_level=0",)),
        Variant("no group gathering", {"attention": "plain"}),
        Variant("full decoder", {"decoder": "full"}),
    )
}
"""What is worth measuring on a GPU, in this order."""


def parse_variants(texts: Sequence[str]) -> tuple[Variant, ...]:
    """Variants from `NAME`, a predefined one, or `NAME:field=value,field=value`; `none` alone gives none.

    Raises:
        UserError: A text is neither.
    """
    return () if list(texts) == ["none"] else tuple(map(parse_variant, texts))


def parse_variant(text: str) -> Variant:
    """One variant.

    Raises:
        UserError: The text names no predefined variant and has no settings.
    """
    name, colon, settings = text.partition(":")
    if not colon:
        if name not in PREDEFINED:
            raise UserError(
                f"--variants has {name!r}; give NAME:field=value,field=value or one of {', '.join(PREDEFINED)}"
            )
        return PREDEFINED[name]
    changes: dict[str, Any] = {}
    flags: tuple[str, ...] = ()
    for setting in settings.split(","):
        key, equals, value = setting.partition("=")
        if not (name and key and equals):
            raise UserError(f"--variants has {text!r}; give NAME:field=value,field=value")
        if key == XLA:
            flags += tuple(value.split("+"))
        else:
            changes[key] = _value(value)
    return Variant(name, changes, xla_flags=flags)


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
