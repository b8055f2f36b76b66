"""Summary of a loaded checkpoint in about ten lines: its kind, input, methods and origin."""

import textwrap
from pathlib import Path
from typing import Any

import jax

from sarwmix_jax.checkpoints.loading import Loaded
from sarwmix_jax.errors import one_line
from sarwmix_jax.facts.bands import STATISTICS, BandStatistics
from sarwmix_jax.facts.sizes import SIZES
from sarwmix_jax.settings.model import ModelSettings

CLASSES_WIDTH = 100
"""Largest width of the row of class names; further names are left out."""


def summary(loaded: Loaded, statistics: BandStatistics, place: Path) -> str:
    """Text of `print(model)`.

    Args:
        loaded: The checkpoint.
        statistics: Band statistics that standardise the input, the checkpoint's own or others.
        place: Folder from which it was loaded.
    """
    settings, described = loaded.settings, loaded.description
    total, trained = _count((loaded.params, loaded.fixed)), _count(loaded.params)
    means, deviations = (
        ", ".join(f"{value:.2f}" for value in part) for part in (statistics.mean_db, statistics.std_db)
    )
    rows = [
        ("size", size_name(loaded.kind, settings)),
        ("parameters", f"{total:,}, {trained:,} of them trained"),
        ("input", f"{', '.join(settings.bands)} in dB, {settings.image_size} x {settings.image_size} px"),
        (
            "standardised",
            f"{_statistics_name(loaded, statistics)}: mean {means} dB, standard deviation {deviations} dB",
        ),
        *(("gives" if number == 0 else "", line) for number, line in enumerate(_offers(loaded))),
        ("folder", one_line(place) + (f", step {loaded.step:,}" if loaded.step else "")),
        ("origin", _origin(described)),
    ]
    if described.get("classes"):
        rows.append(("classes", _classes(described)))
    return "\n".join([f"SAR-W-MixMAE, {loaded.kind} checkpoint", *(f"  {name:14}{text}" for name, text in rows)])


def size_name(kind: str, settings: ModelSettings) -> str:
    """Name of the published size with these settings, or widths and depths of another size."""
    names = ["embed_dim", "num_heads", "depths"]
    names += ["decoder_dim", "decoder_depth", "decoder_heads"] if kind == "pretraining" else []
    for size, published in SIZES.items():
        if all(getattr(settings, name) == getattr(published, name) for name in names):
            return f"{size} (published size)"
    shape = f"embed_dim {settings.embed_dim}, depths {settings.depths}, num_heads {settings.num_heads}"
    decoder = (settings.decoder_dim, settings.decoder_depth, settings.decoder_heads)
    return f"{shape}, decoder {decoder}" if kind == "pretraining" else shape


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _statistics_name(loaded: Loaded, statistics: BandStatistics) -> str:
    if statistics == loaded.statistics:
        name = str(loaded.description["statistics"].get("name", ""))
        return "with those of its training records" if name == "records" else f"with {name}"
    return f"with {next(name for name, known in STATISTICS.items() if known == statistics)} instead of its own"


def _offers(loaded: Loaded) -> list[str]:
    """Methods of this kind of checkpoint, with the shapes of their results."""
    settings, kind = loaded.settings, loaded.kind
    maps = [f"{side} x {side} x {width}" for side, width in zip(settings.grids, settings.widths, strict=True)]
    calls = [
        ("encode(images_db)", f"(batch, {settings.features}) features"),
        ("encode_pyramid(images_db)", f"maps of (batch) {', '.join(maps)}"),
    ]
    if kind == "classifier":
        calls.append(("classify(images_db)", f"(batch, {loaded.description['classes']}) logits"))
    elif kind == "flood":
        calls.append(
            (
                "flood(before_db, after_db)",
                f"(batch, {loaded.description['classes']}) logits; any size from one tile up",
            )
        )
    else:
        size = (len(settings.bands), settings.image_size, settings.image_size)
        calls.append(("reconstruct(images_db)", f".image_db, .prediction (batch, {', '.join(map(str, size))}), .mask"))
    return [f"{call:28}{shape}" for call, shape in calls]


def _origin(described: dict[str, Any]) -> str:
    """The converted file, or the records of the run."""
    source, progress = described.get("source") or {}, described.get("progress") or {}
    epochs = progress.get("epoch", source.get("epochs"))
    trained = "" if epochs is None else f", {epochs:.4g} epochs"
    if file := source.get("file"):
        known = "a released file" if source.get("verified") else "not a released file"
        return f"converted from {one_line(file)} (sha256 {source['sha256'][:12]}, {known}){trained}"
    sets = ", ".join(f"{one_line(each['name'])} ({each['records']:,} records)" for each in source.get("sets", ()))
    return f"a run on {sets or 'records that it does not name'}{trained}"


def _classes(described: dict[str, Any]) -> str:
    """Number of classes, and as many of their names as fit in one row."""
    names = one_line("; ".join(described.get("class_names") or ["without names"]))
    return textwrap.shorten(f"{described['classes']}: {names}", CLASSES_WIDTH, placeholder=" ...")
