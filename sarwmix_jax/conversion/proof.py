"""Verification of a conversion: every tensor is compared, and outputs on a probe input are stored and compared."""

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sarwmix_jax.conversion.export import export
from sarwmix_jax.conversion.table import INDEX_BUFFER, entries
from sarwmix_jax.errors import UserError
from sarwmix_jax.inference.model import LoadedModel, load
from sarwmix_jax.preparation.writer import write_file
from sarwmix_jax.progress import progress, track

if TYPE_CHECKING:
    from sarwmix_jax.conversion.convert import Converted

PROBE = "probe.npz"
"""File beside a converted checkpoint: the probe input, and the outputs at the first verification."""

TOLERANCE = 1e-3
"""Largest allowed difference of an output on another machine, relative to the largest output."""

_DIFFERS = "differs"


def compare_tensors(converted: "Converted", directory: Path) -> tuple[list[str], list[str]]:
    """Read a written checkpoint back into the published form and compare it with the file, bit by bit.

    Returns:
        A line per tensor with its largest difference and why it may differ; and a summary: how many are equal, and for
        each reason how many differ and by how much.

    Raises:
        UserError: The checkpoint cannot be read, or a tensor differs without a reason.
    """
    published = {entry.name: entry.published for entry in entries(converted.found.extent)}
    reasons = dict.fromkeys(converted.rounded, "rounded to float32")
    reasons |= {published[name]: "resized" for name in converted.source["resized"]}
    reasons |= {published[name]: "drawn, was missing" for name in converted.source["drawn"]}
    lines: list[str] = []
    notes: dict[str, list[float]] = {}
    with progress("reading the checkpoint back"):
        tensors = export(directory).tensors
    for name, array in track(tensors.items(), "comparing tensors", unit="tensors"):
        difference, note = _compare(name, array, converted.published.get(name))
        note = reasons.get(name, note)
        if note == _DIFFERS:
            raise UserError(f"{directory}: tensor {name} differs from the file by {difference:.3g}; convert again")
        notes.setdefault(note, []).append(difference)
        lines.append(f"{name} {list(array.shape)} {difference:.3g} {note}".rstrip())
    summary = [f"{len(notes.pop('', []))} of {len(lines)} tensors bit-identical after a round trip"]
    for note, differences in notes.items():
        largest = "" if math.isnan(max(differences)) else f", by {max(differences):.3g} at most"
        summary.append(f"{len(differences)} tensors {note}{largest}")
    return lines, summary


def _compare(name: str, array: np.ndarray, original: np.ndarray | None) -> tuple[float, str]:
    """Largest difference of two tensors, and a note unless all bits are equal."""
    if original is None or original.shape != array.shape:
        rebuilt = "rebuilt" if original is not None else "rebuilt, not in the file"
        return math.nan, rebuilt if INDEX_BUFFER.fullmatch(name) else _DIFFERS
    same = original.astype(array.dtype).tobytes() == array.tobytes()
    if same and original.dtype != np.float64:  # no other type has more digits than float32
        return 0.0, ""
    with np.errstate(invalid="ignore"):
        difference = np.abs(array - original.astype(np.float64))
    return float(np.nan_to_num(difference).max()), "" if same else _DIFFERS


def probe_outputs(model: LoadedModel, images_db: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of a model on the probe input, by name."""
    if model.kind == "classifier":
        return {"logits": model.classify(images_db)}
    if model.kind == "flood":
        return {"logits": model.flood(images_db[:1], images_db[1:])}
    mask = (np.arange(model.settings.cells) * 7 % 16 < 8).astype(np.float32)
    prediction = model.reconstruct(images_db, mask, norm_pix=False).prediction
    return {"features": model.encode(images_db), "prediction": prediction}


def probe_input(model: LoadedModel) -> np.ndarray:
    """Two images of speckle with the model's band statistics, in dB."""
    side = model.settings.image_size
    noise = np.random.default_rng(0).standard_normal((2, len(model.bands), side, side), np.float32)
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in vars(model.statistics).values())
    return mean + std * noise


def run_probe(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, float] | None]:
    """Run a checkpoint on its stored probe input; the first time, store one with the outputs.

    Returns:
        The outputs, and their largest differences from the stored ones (None the first time).

    Raises:
        UserError: The stored probe is unreadable, or an output differs more than by the arithmetic of another machine.
    """
    with progress("running the probe"):
        return _run_probe(load(directory), directory)


def _run_probe(model: LoadedModel, directory: Path) -> tuple[dict[str, np.ndarray], dict[str, float] | None]:
    file = directory / PROBE
    if not file.exists():
        images_db = probe_input(model)
        outputs = probe_outputs(model, images_db)
        arrays = io.BytesIO()
        np.savez(arrays, images_db=images_db, **outputs)  # type: ignore[arg-type]
        write_file(file, arrays.getbuffer())
        return outputs, None
    kept = _kept(file)
    outputs = probe_outputs(model, kept.pop("images_db"))
    if set(kept) != set(outputs):
        raise UserError(f"{file} does not belong to this checkpoint; delete it to make a new one")
    differences = {name: float(np.abs(outputs[name] - kept[name]).max()) for name in outputs}
    for name, difference in differences.items():
        if not difference <= TOLERANCE * float(np.abs(kept[name]).max()):
            raise UserError(f"{directory}: {name} on the kept probe differ by {difference:.3g}; convert the file again")
    return outputs, differences


def _kept(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:  # which would leave its own open
            return dict(arrays)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read; delete it to make a new one") from error


def summary(outputs: Mapping[str, np.ndarray]) -> list[str]:
    """Outputs in short, one line per output."""
    return [
        f"{name} {list(a.shape)}: mean {a.mean():.6g}, standard deviation {a.std():.6g}, first "
        + ", ".join(f"{value:.6g}" for value in a.reshape(-1)[:4])
        for name, a in outputs.items()
    ]
