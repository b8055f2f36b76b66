"""From settings to a run: what settings must satisfy, and the settings of its parts.

Model and weighting check their own values when they are built here; everything else is checked in this file.
"""

import dataclasses
import math
from typing import Any

from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import STATISTICS
from sarwmix_jax.models.settings import ModelSettings, windows_for
from sarwmix_jax.settings import PretrainingSettings, to_dataclass
from sarwmix_jax.weighting import WeightSettings

RECORDS = "records"
"""`data.statistics` by this name are those that the record set states about itself."""

POSITIVE = (
    "weighting.exp_scale",
    "batch.global_batch",
    "batch.micro_batch",
    "batch.mix_group",
    "optimizer.base_lr",
    "optimizer.eps",
    "optimizer.clip_grad",
    "optimizer.schedule_epochs",
    "optimizer.stop_after_epochs",
    "optimizer.stop_after_steps",
    "data.threads",
    "data.prefetch",
    "checkpoint.every_epochs",
    "checkpoint.keep",
    "log.every_steps",
    "log.validate_every_epochs",
)
NOT_NEGATIVE = (
    "seed",
    "data.workers",
    "optimizer.min_lr",
    "optimizer.weight_decay",
    "optimizer.warmup_epochs",
    "mask.range_mask_ratio",
)
BELOW_ONE = ("optimizer.beta1", "optimizer.beta2")
PROBABILITIES = ("augment.horizontal_flip", "augment.vertical_flip")


def resolve(config: Any) -> PretrainingSettings:
    """Settings from a config (or a plain nested mapping), checked.

    Raises:
        UserError: a name or type is wrong, or values do not fit together.
    """
    settings = to_dataclass(config, PretrainingSettings)
    validate(settings)
    return settings


def validate(settings: PretrainingSettings) -> None:
    """Refuse values that cannot be right on any machine; one line says what and what to do.

    Raises:
        UserError: the first thing found.
    """
    check_ranges(settings)
    model_settings(settings)
    weight_settings(settings)
    check_mask(settings)
    check_batch(settings)
    check_schedule(settings)
    check_data(settings)


def model_settings(settings: PretrainingSettings, platform: str = "cpu") -> ModelSettings:
    """Settings of the model; windows that are not set come from the image size, `scan` from the devices' platform."""
    values = dataclasses.asdict(settings.model)
    if values["windows"] is None:
        values["windows"] = windows_for(settings.model.image_size)
    if values["scan"] is None:
        values["scan"] = platform == "cpu"
    return ModelSettings(**values)


def weight_settings(settings: PretrainingSettings) -> WeightSettings:
    """Settings of the backscatter weights."""
    return WeightSettings(**dataclasses.asdict(settings.weighting))


def get(settings: PretrainingSettings, name: str) -> Any:
    """Value of a setting by its dotted name."""
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def check_ranges(settings: PretrainingSettings) -> None:
    """Numbers lie where they can."""
    rules = (
        (POSITIVE, lambda value: value > 0, "a number above 0"),
        (NOT_NEGATIVE, lambda value: value >= 0, "0 or more"),
        (BELOW_ONE, lambda value: 0 <= value < 1, "a number from 0 to below 1"),
        (PROBABILITIES, lambda value: 0 <= value <= 1, "a probability from 0 to 1"),
    )
    for names, allowed, words in rules:
        for name in names:
            value = get(settings, name)
            if value is not None and not (math.isfinite(value) and allowed(value)):
                raise UserError(f"{name} is {value}; give {words}")


def check_mask(settings: PretrainingSettings) -> None:
    """At least one cell is masked and at least one is not, whatever is drawn."""
    cells = model_settings(settings).cells
    ratio, extra = settings.mask.ratio, settings.mask.range_mask_ratio
    if math.floor(cells * ratio) < 1 or math.floor(cells * (ratio + extra)) >= cells:
        raise UserError(
            f"mask.ratio {ratio} with range_mask_ratio {extra} can mask none or all of the {cells} cells; use 0.5 and 0"
        )


def check_batch(settings: PretrainingSettings) -> None:
    """The global batch is whole micro-batches, a micro-batch is whole mix groups."""
    batch = settings.batch
    for small, large in (("micro_batch", "global_batch"), ("mix_group", "micro_batch"), ("mix_group", "global_batch")):
        inner, outer = getattr(batch, small), getattr(batch, large)
        if inner is not None and outer is not None and outer % inner:
            raise UserError(f"batch.{large} {outer} is not a multiple of batch.{small} {inner}; {remedy(outer, inner)}")


def remedy(value: int, unit: int) -> str:
    """Words that name the multiples of `unit` beside `value`."""
    below = value // unit * unit
    return f"use {below} or {below + unit}" if below else f"use {unit}"


def check_schedule(settings: PretrainingSettings) -> None:
    """Warm-up, end and schedule are in order."""
    optimizer = settings.optimizer
    length = f"optimizer.schedule_epochs {optimizer.schedule_epochs:g}"
    if optimizer.warmup_epochs >= optimizer.schedule_epochs:
        raise UserError(
            f"optimizer.warmup_epochs {optimizer.warmup_epochs:g} is not below {length}; shorten the warm-up"
        )
    if optimizer.stop_after_epochs > optimizer.schedule_epochs:
        raise UserError(
            f"optimizer.stop_after_epochs {optimizer.stop_after_epochs:g} is beyond {length}; "
            "lower it or lengthen the schedule"
        )


def check_data(settings: PretrainingSettings) -> None:
    """Records are named and their statistics known."""
    if settings.data.statistics not in {*STATISTICS, RECORDS}:
        known = ", ".join([*sorted(STATISTICS), RECORDS])
        raise UserError(f"data.statistics is {settings.data.statistics!r}; use one of {known}")
    sets, weights = len(settings.data.records), settings.data.mix_weights
    if not sets:
        raise UserError("data.records is not set; give the folder of a record set, --config.data.records=FOLDER")
    if (sets if sets > 1 else 0) != len(weights or ()):
        raise UserError(
            f"data.mix_weights has {len(weights or ())} numbers for {sets} record sets; "
            f"{'give one for each' if sets > 1 else 'leave it unset'}"
        )


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """How a global batch is cut on this machine."""

    micro_batch: int  # images of one device at a time
    accumulation: int  # micro-batches of a device in a step
    mix_group: int  # images that share a mask


def plan_batch(settings: PretrainingSettings, devices: int, frozen_mix_group: int | None = None) -> BatchPlan:
    """Cut the global batch over `devices`.

    Args:
        settings: a run's settings.
        devices: how many there are, over all processes.
        frozen_mix_group: the mix group of the run's checkpoint, which stays whatever the devices.

    Raises:
        UserError: the parts are not whole.
    """
    batch = settings.batch
    if batch.global_batch % devices:
        raise UserError(
            f"batch.global_batch {batch.global_batch} is not a multiple of {devices} devices; "
            f"{remedy(batch.global_batch, devices)}"
        )
    per_device = batch.global_batch // devices
    micro = batch.micro_batch or per_device
    if per_device % micro:
        raise UserError(
            f"batch.micro_batch {micro} does not divide the {per_device} images of each of {devices} devices; "
            f"use {max(size for size in range(1, min(micro, per_device) + 1) if per_device % size == 0)}"
        )
    group = batch.mix_group or frozen_mix_group or micro
    if micro % group:
        raise UserError(
            f"a mix group of {group} images does not divide the device's micro-batch of {micro}; "
            f"set batch.micro_batch to a multiple of {group}, or use fewer devices"
        )
    return BatchPlan(micro, per_device // micro, group)
