"""From a config to checked settings and back: types, ranges, and what must fit together."""

import dataclasses
import math
import re
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import STATISTICS
from sarwmix_jax.settings.declarations import RANGES, Type, hints
from sarwmix_jax.settings.model import published
from sarwmix_jax.settings.sections import (
    TRACKERS,
    FinetuningSettings,
    MixedBatchSettings,
    PretrainingSettings,
    RunSettings,
)

if TYPE_CHECKING:
    from ml_collections import config_dict

T = TypeVar("T")
Run = TypeVar("Run", bound=RunSettings)

RECORDS = "records"
"""This value of `data.statistics` means the record set's own statistics."""

RENAMED = {
    "data.validation_split": "validation.split",
    "log.validate_every_epochs": "validation.every_epochs",
}
"""Current names of settings by their names in older versions."""


def pretraining_config(size: str = "base") -> "config_dict.ConfigDict":
    """Defaults of every pretraining setting for a published size: a `ConfigDict` that refuses unknown names and types.

    Raises:
        UserError: No published model has this size.
    """
    return _config_of_size(PretrainingSettings(), size)


def finetuning_config(size: str = "base") -> "config_dict.ConfigDict":
    """Defaults of every finetuning setting for a published size; see `pretraining_config`.

    Raises:
        UserError: No published model has this size.
    """
    return _config_of_size(FinetuningSettings(), size)


def _config_of_size(settings: RunSettings, size: str) -> "config_dict.ConfigDict":
    model = dataclasses.replace(published(size), drop_path=settings.model.drop_path)
    return to_config(dataclasses.replace(settings, model=model)).lock()


def to_config(settings: Any) -> "config_dict.ConfigDict":
    """A `ConfigDict` with the values of a dataclass of settings, not locked."""
    from ml_collections import config_dict

    config = config_dict.ConfigDict()
    for name, hint in hints(type(settings)).items():
        value = getattr(settings, name)
        if dataclasses.is_dataclass(value):
            config[name] = to_config(value)
        else:
            config[name] = config_dict.placeholder(Type.of(hint).kind) if value is None else value
    return config


def to_dataclass(config: Any, kind: type[T], where: str = "") -> T:
    """Frozen dataclass of `kind` from a mapping that has exactly its names.

    Raises:
        UserError: A name is missing or unknown, or a value has another type or is out of range.
    """
    known = hints(kind)
    unknown, missing = sorted(set(config) - set(known)), sorted(set(known) - set(config))
    if unknown or missing:
        problem = f"unknown setting {where}{unknown[0]}" if unknown else f"missing setting {where}{missing[0]}"
        raise UserError(f"{problem}; known here: {', '.join(known)}")
    values = {name: _value(config[name], hint, where + name) for name, hint in known.items()}
    try:
        return kind(**values)
    except UserError as error:  # values of one section do not fit together; the message names settings without flags
        before = r"(?<![\w.])" if where else "^"  # without a section, later names may be values: `flood` is a task, too
        found = rf"{before}{re.escape(where)}(?=({'|'.join(known)})\b)"
        raise UserError(re.sub(found, f"--config.{where}", str(error))) from error


def _value(value: Any, hint: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return to_dataclass(value, typing.cast(type, hint), f"{name}.")
    expected = Type.of(hint)
    if expected.optional and value in (None, ""):
        return None  # an empty text on the command line unsets a setting
    if expected.kind is tuple and isinstance(value, list | tuple):
        return tuple(_value(each, expected.part, f"{name}[{number}]") for number, each in enumerate(value))
    if expected.kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, expected.kind) or (expected.kind is int and isinstance(value, bool)):
        raise UserError(f"--config.{name} is {value!r}; give {expected.words}")
    if expected.range is not None:
        allowed, _ = RANGES[expected.range]
        if not (math.isfinite(value) and allowed(value)):
            raise UserError(f"--config.{name} is {value}; give {expected.words}")
    return value


def as_json(settings: Any) -> dict[str, Any]:
    """Settings as plain values for JSON (tuples become lists)."""
    return {
        name: as_json(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
        for name, value in (settings if isinstance(settings, dict) else dataclasses.asdict(settings)).items()
    }


def stored_settings(stored: dict[str, Any], kind: type[Run]) -> Run:
    """Settings from a checkpoint; those that are newer than the checkpoint have their defaults."""
    values = {name: dict(part) if isinstance(part, dict) else part for name, part in stored.items()}
    for old, new in RENAMED.items():
        (group, name), (new_group, new_name) = old.split("."), new.split(".")
        if name in values.get(group, {}):
            values.setdefault(new_group, {})[new_name] = values[group].pop(name)
    if isinstance(values.get("model", {}).get("recompute"), bool):  # as the first checkpoints have it
        values["model"]["recompute"] = "block" if values["model"]["recompute"] else "none"
    defaults = as_json(kind())
    filled = {name: defaults.get(name, {}) | part if isinstance(part, dict) else part for name, part in values.items()}
    return to_dataclass(defaults | filled, kind)


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


def resolve(config: Any, kind: type[Run]) -> Run:
    """Settings from a config (or a plain nested mapping), checked.

    Raises:
        UserError: A name, type or range is wrong, or values do not fit together; one line states what and the remedy.
    """
    settings = to_dataclass(config, kind)
    if isinstance(settings, PretrainingSettings):
        _check_mask(settings)
    _check_batch(settings)
    _check_schedule(settings)
    _check_data(settings)
    _check_trackers(settings.log.trackers)
    return settings


def _check_mask(settings: PretrainingSettings) -> None:
    """Every mask has at least one masked and one visible cell."""
    cells, ratio, extra = settings.model.cells, settings.mask.ratio, settings.mask.range_mask_ratio
    if math.floor(cells * ratio) < 1 or math.floor(cells * (ratio + extra)) >= cells:
        raise UserError(
            f"--config.mask.ratio {ratio} with --config.mask.range_mask_ratio {extra} can mask none or all of the "
            f"{cells} cells; use 0.5 and 0"
        )


def _check_batch(settings: RunSettings) -> None:
    """The global batch is whole micro-batches, a micro-batch is whole mix groups."""
    batch = dataclasses.asdict(settings.batch)
    for small, large in (("micro_batch", "global_batch"), ("mix_group", "micro_batch"), ("mix_group", "global_batch")):
        inner, outer = batch.get(small), batch[large]
        if inner is not None and outer is not None and outer % inner:
            raise UserError(
                f"--config.batch.{large} {outer} is not a multiple of --config.batch.{small} {inner}; "
                f"{remedy(outer, inner)}"
            )


def remedy(value: int, unit: int) -> str:
    """Text that names the multiples of `unit` next to `value`."""
    below = value // unit * unit
    return f"use {below} or {below + unit}" if below else f"use {unit}"


def _check_schedule(settings: RunSettings) -> None:
    """Warm-up and end of the run are within the schedule."""
    optimizer = settings.optimizer
    length = f"--config.optimizer.schedule_epochs {optimizer.schedule_epochs:g}"
    if optimizer.warmup_epochs >= optimizer.schedule_epochs:
        raise UserError(
            f"--config.optimizer.warmup_epochs {optimizer.warmup_epochs:g} is not below {length}; shorten the warm-up"
        )
    if optimizer.stop_after_epochs > optimizer.schedule_epochs:
        raise UserError(
            f"--config.optimizer.stop_after_epochs {optimizer.stop_after_epochs:g} is beyond {length}; "
            "lower it or lengthen the schedule"
        )


def _check_data(settings: RunSettings) -> None:
    """Record sets are given, each once, and their statistics are known."""
    if settings.data.statistics not in {*STATISTICS, RECORDS}:
        known = ", ".join([*sorted(STATISTICS), RECORDS])
        raise UserError(f"--config.data.statistics is {settings.data.statistics!r}; use one of {known}")
    sets, weights = len(settings.data.records), settings.data.mix_weights
    if not sets:
        raise UserError(
            "--config.data.records is not set; give the folder of a record set, --config.data.records=FOLDER"
        )
    places = [Path(folder).resolve() for folder in settings.data.records]
    if twice := [folder for number, folder in enumerate(settings.data.records) if places[number] in places[:number]]:
        raise UserError(
            f"--config.data.records names {twice[0]} twice; name each set once, and weigh it with "
            "--config.data.mix_weights=SHARE,SHARE"
        )
    if (sets if sets > 1 else 0) != len(weights or ()):
        raise UserError(
            f"--config.data.mix_weights has {len(weights or ())} numbers for {sets} record sets; "
            f"{'give one for each' if sets > 1 else 'unset it, --config.data.mix_weights='}"
        )


def _check_trackers(names: tuple[str, ...]) -> None:
    """Trackers are known, each named once."""
    for number, name in enumerate(names):
        if name not in TRACKERS:
            raise UserError(f"--config.log.trackers has {name!r}; use {' or '.join(TRACKERS)}")
        if name in names[:number]:
            raise UserError(f"--config.log.trackers has {name} twice; name each once")


def cut_batch(batch: Any, devices: int, frozen_mix_group: int | None = None) -> Any:
    """Batch settings with micro-batch and mix group set.

    Args:
        batch: Batch settings of the user.
        devices: Number of devices of all processes.
        frozen_mix_group: The mix group of the run's checkpoint, which is kept for any devices.

    Raises:
        UserError: The batch cannot be divided evenly, or images would mix with themselves.
    """
    if batch.global_batch % devices:
        raise UserError(
            f"--config.batch.global_batch {batch.global_batch} is not a multiple of {devices} devices; "
            f"{remedy(batch.global_batch, devices)}"
        )
    per_device = batch.global_batch // devices
    micro = batch.micro_batch or per_device
    if per_device % micro:
        raise UserError(
            f"--config.batch.micro_batch {micro} does not divide the {per_device} images of each of {devices} devices; "
            f"use {max(size for size in range(1, min(micro, per_device) + 1) if per_device % size == 0)}"
        )
    if not isinstance(batch, MixedBatchSettings):
        return dataclasses.replace(batch, micro_batch=micro)
    group = batch.mix_group or frozen_mix_group or micro
    if micro % group:
        raise UserError(
            f"a mix group of {group} images does not divide the device's micro-batch of {micro}; "
            f"give a multiple of {group}, --config.batch.micro_batch={group}, or use fewer devices"
        )
    if group == 1 or (group % 2 and batch.odd_group == "refuse"):
        what = "its only image" if group == 1 else "its middle image"
        allowed = "" if group == 1 else ", or --config.batch.odd_group=faithful, as published"
        raise UserError(
            f"in a mix group of {group} {what} would mix with itself and hide nothing; give an even "
            f"number, --config.batch.mix_group= or --config.batch.micro_batch={allowed}"
        )
    return dataclasses.replace(batch, micro_batch=micro, mix_group=group)
