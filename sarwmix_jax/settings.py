"""Every setting of a run, once: its name, type, default and meaning.

The dataclasses below are the list. `pretraining_config()` turns their defaults into a locked `ConfigDict` that config
files and the command line change; `training.plan.resolve` turns the result back into frozen dataclasses and
refuses what does not fit together. `None` means: not set.
"""

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.sizes import SIZES

if TYPE_CHECKING:
    from ml_collections import config_dict

T = TypeVar("T")


@dataclass(frozen=True)
class ModelSection:
    """Sizes and execution of the model; the defaults are the published base model."""

    image_size: int = 128  # side in pixels that records are resized to; a multiple of 32
    embed_dim: int = 128  # width of the first stage; each of the next three doubles it
    depths: tuple[int, ...] = (2, 2, 18, 2)  # blocks per stage
    num_heads: tuple[int, ...] = (4, 8, 16, 32)  # attention heads per stage
    windows: tuple[int, ...] | None = None  # window side in tokens per stage; unset: by image size
    mlp_ratio: int = 4
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    drop_path: float = 0.0  # rate of the last block, linear from 0 at the first
    dropout: float = 0.0
    dtype: str = "float32"  # of activations and products: float32 or bfloat16; parameters stay float32
    recompute: str = "none"  # in the backward pass: none, elementwise (LayerNorm, GELU) or block (least memory)
    scan: bool | None = None  # loop over equal blocks, compiled once: starts faster; unset: on CPUs, as fast there
    attention: str = "auto"  # auto: half-length groups where exact; plain: always the bias path
    decoder: str = "auto"  # auto: only masked cells for the loss where exact; full: every cell
    kernel: str = "xla"  # what computes attention: xla; on an NVIDIA GPU also cudnn (bfloat16 only) or fused


@dataclass(frozen=True)
class MaskSettings:
    """How many of the 32-pixel cells come from the partner image: floor(cells * (ratio + u))."""

    ratio: float = 0.5
    range_mask_ratio: float = 0.0  # u is uniform in [0, range_mask_ratio]


@dataclass(frozen=True)
class WeightingSection:
    """Backscatter weights of the squared error."""

    mode: str = "per_channel"  # per_channel, shared_power, shared_weight or off
    power_of: str = "backscatter"  # backscatter: true power (paper); standardised: as the released code
    granularity: str = "pixel"  # pixel or token
    exp_scale: float = 1.0


@dataclass(frozen=True)
class LossSettings:
    """What the squared error compares."""

    norm_pix: bool = True  # target standardised per cell


@dataclass(frozen=True)
class DataSettings:
    """Where images come from, and how they are read."""

    records: tuple[str, ...] = ()  # folder of a record set, or of several to mix
    mix_weights: tuple[float, ...] | None = None  # shares of several record sets in every batch
    split: str = "train"  # such as train+validation or train[:12.5%]
    validation_split: str | None = None  # held-out records for the validation loss
    statistics: str = "bigearthnet_v2"  # published band statistics by name, or "records": those of the record set
    quantity: str | None = None  # sigma0, gamma0 or beta0: refuse records of another; unset: take any
    nodata_aware: bool = False  # leave pixels that the records mark invalid out of weights, targets and loss
    threads: int = 2  # reading threads
    workers: int = 0  # reading processes; 0: threads of this process
    prefetch: int = 2  # batches kept ready
    resident: bool = False  # hold the records of `split` in device memory, spread over the devices: read once a start


@dataclass(frozen=True)
class AugmentSettings:
    """Random flips."""

    horizontal_flip: float = 0.5  # probability
    vertical_flip: float = 0.5


@dataclass(frozen=True)
class BatchSettings:
    """How the global batch is cut."""

    global_batch: int = 2048  # images of one optimiser step, all devices and accumulation included
    micro_batch: int | None = None  # images of one device at a time; unset: no accumulation
    mix_group: int | None = None  # images that share a mask and mix; unset: the micro-batch at the first start


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and its schedule."""

    base_lr: float = 1.5e-4  # for a global batch of 256; scaled with the batch
    min_lr: float = 0.0  # absolute, at the end of the schedule
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.05
    clip_grad: float | None = None  # largest global gradient norm; unset: no clipping
    warmup_epochs: float = 40.0
    schedule_epochs: float = 1024.0  # where the cosine ends, warm-up included
    stop_after_epochs: float = 64.0  # where the run ends, whatever the schedule's length
    stop_after_steps: int | None = None  # or after so many steps, when that is earlier


@dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are written and which stay."""

    every_epochs: float = 1.0
    keep: int = 2  # the last so many
    powers_of_two: bool = True  # also keep those after 1, 2, 4, 8, ... epochs
    at_epochs: tuple[float, ...] = ()  # also keep those after these epochs
    best: bool = True  # also keep the one with the lowest validation loss


@dataclass(frozen=True)
class LogSettings:
    """What is written down, and how often."""

    every_steps: int = 20
    validate_every_epochs: float = 1.0  # loss on data.validation_split


@dataclass(frozen=True)
class PretrainingSettings:
    """All settings of a pretraining run."""

    seed: int = 0
    init_from: str | None = None  # start from the parameters of this checkpoint (a new run, step 0)
    model: ModelSection = field(default_factory=ModelSection)
    mask: MaskSettings = field(default_factory=MaskSettings)
    weighting: WeightingSection = field(default_factory=WeightingSection)
    loss: LossSettings = field(default_factory=LossSettings)
    data: DataSettings = field(default_factory=DataSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    log: LogSettings = field(default_factory=LogSettings)


def pretraining_config(size: str = "base") -> "config_dict.ConfigDict":
    """Defaults of every pretraining setting for a published size: a `ConfigDict` that refuses unknown names and types.

    Raises:
        UserError: no published model has this size.
    """
    if size not in SIZES:
        raise UserError(f"model size {size!r} is unknown; use one of {', '.join(SIZES)}")
    config = _to_config(PretrainingSettings())
    config.model.update(dataclasses.asdict(SIZES[size]))
    return config.lock()


def setting_names(kind: type = PretrainingSettings, where: str = "") -> list[str]:
    """Dotted names of all settings."""
    names = []
    for name, hint in typing.get_type_hints(kind).items():
        inner = dataclasses.is_dataclass(hint)
        names += setting_names(hint, f"{where}{name}.") if inner else [where + name]
    return names


def _to_config(settings: Any) -> "config_dict.ConfigDict":
    from ml_collections import config_dict

    config = config_dict.ConfigDict()
    hints = typing.get_type_hints(type(settings))
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if dataclasses.is_dataclass(value):
            config[item.name] = _to_config(value)
        elif value is None:
            config[item.name] = config_dict.placeholder(_plain_type(hints[item.name]))
        else:
            config[item.name] = value
    return config


def _without_none(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not types.NoneType)
    return hint


def _plain_type(hint: Any) -> type:
    """The type of a setting without `| None` and without what a tuple holds."""
    hint = _without_none(hint)
    return typing.get_origin(hint) or hint


def _part_type(hint: Any) -> type:
    """The type of a tuple's elements."""
    return typing.get_args(_without_none(hint))[0]


def to_dataclass(config: Any, kind: type[T], where: str = "") -> T:
    """Frozen dataclass of `kind` from a mapping that has exactly its names.

    Raises:
        UserError: a name is missing or unknown, or a value has another type.
    """
    names = [item.name for item in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown, missing = sorted(set(config) - set(names)), sorted(set(names) - set(config))
    if unknown or missing:
        problem = f"unknown setting {where}{unknown[0]}" if unknown else f"missing setting {where}{missing[0]}"
        raise UserError(f"{problem}; known here: {', '.join(names)}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(config[name], hints[name], where + name) for name in names})


def _value(value: Any, hint: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return to_dataclass(value, typing.cast(type, hint), f"{name}.")
    if value in (None, "") and isinstance(hint, types.UnionType):
        return None  # an empty text on the command line unsets a setting
    kind = _plain_type(hint)
    if kind is tuple and isinstance(value, list | tuple):
        part = _part_type(hint)
        return tuple(_value(each, part, f"{name}[{number}]") for number, each in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"setting {name} is {value!r}, a {type(value).__name__}; give a {kind.__name__}")
    return value


def as_json(settings: Any) -> dict[str, Any]:
    """Settings as plain values for JSON (tuples become lists)."""
    return {
        name: as_json(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
        for name, value in (settings if isinstance(settings, dict) else dataclasses.asdict(settings)).items()
    }


def differences(old: dict[str, Any], new: dict[str, Any], where: str = "") -> list[str]:
    """Lines `name: old -> new` for every setting that differs between two `as_json` results."""
    lines = []
    for name in sorted(set(old) | set(new)):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{where}{name}.")
        elif before != after:
            lines.append(f"{where}{name}: {before!r} -> {after!r}")
    return lines
