"""Proof that a conversion lost nothing: every tensor compared, and the output on a probe input that is kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sarwmix_jax.conversion.export import export
from sarwmix_jax.conversion.table import INDEX_BUFFER
from sarwmix_jax.errors import UserError
from sarwmix_jax.inference.model import LoadedModel, load

if TYPE_CHECKING:
    from sarwmix_jax.conversion.convert import Converted

PROBE = "probe.npz"
"""File beside a converted checkpoint: the probe input, and the outputs when it was verified first."""

TOLERANCE = 1e-3
"""Largest difference of an output on another machine, relative to the largest output."""

_DIFFERS = "differs"


class Line(NamedTuple):
    """One tensor's comparison; `note` says why it may differ, and is empty where all bits are the same."""

    name: str
    shape: tuple[int, ...]
    difference: float
    note: str


def compare_tensors(converted: "Converted", directory: Path) -> list[Line]:
    """Read a written checkpoint back into the published form and compare it with the file, tensor by tensor.

    Raises:
        UserError: the checkpoint cannot be read, or a tensor differs without a reason.
    """
    back = export(directory).tensors
    reasons = {name: "rounded to float32" for name in converted.rounded}
    by_ours = {entry.ours: entry.published for entry in converted.entries}
    reasons |= {by_ours[name]: "resized" for name in converted.source["resized"]}
    reasons |= {by_ours[name]: "drawn, was missing" for name in converted.source["drawn"]}
    lines = [_compare(name, array, converted.published.get(name), reasons.get(name)) for name, array in back.items()]
    if wrong := [line.name for line in lines if line.note == _DIFFERS]:
        raise UserError(f"{directory}: {len(wrong)} tensors differ from the file, such as {wrong[0]}; convert again")
    return lines


def _compare(name: str, array: np.ndarray, original: np.ndarray | None, reason: str | None) -> Line:
    if INDEX_BUFFER.fullmatch(name) and (original is None or original.shape != array.shape):
        reason = "rebuilt, not in the file" if original is None else "rebuilt"
    if original is None or original.shape != array.shape:
        return Line(name, array.shape, float("nan"), reason or _DIFFERS)
    identical = original.astype(array.dtype).tobytes() == array.tobytes()
    with np.errstate(invalid="ignore"):
        difference = 0.0 if identical else float(np.nanmax(np.abs(array - original.astype(np.float64))))
    return Line(name, array.shape, difference, reason or ("" if identical else _DIFFERS))


def probe_outputs(model: LoadedModel, images_db: np.ndarray) -> dict[str, np.ndarray]:
    """What a model makes of the probe, by name."""
    if model.kind == "classifier":
        return {"logits": model.classify(images_db)}
    if model.kind == "flood":
        return {"logits": model.flood(images_db[:1], images_db[1:])}
    mask = (np.arange(model.settings.cells) * 7 % 16 < 8).astype(np.float32)
    prediction = model.reconstruct(images_db, mask, norm_pix=False).prediction
    return {"features": model.encode(images_db), "prediction": prediction}


def probe_input(model: LoadedModel) -> np.ndarray:
    """Two images of speckle around the model's own statistics, in dB."""
    side = model.settings.image_size
    noise = np.random.default_rng(0).standard_normal((2, len(model.bands), side, side), np.float32)
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in vars(model.statistics).values())
    return mean + std * noise


def run_probe(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, float] | None]:
    """Run a checkpoint on its kept probe, or keep one if there is none.

    Returns:
        The outputs, and their largest differences from the kept ones (None the first time).

    Raises:
        UserError: the kept probe is unreadable, or an output differs more than another machine's arithmetic can.
    """
    model, file = load(directory), directory / PROBE
    if not file.exists():
        images_db = probe_input(model)
        outputs = probe_outputs(model, images_db)
        np.savez(file, images_db=images_db, **outputs)  # type: ignore[arg-type]
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


def _kept(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} cannot be read; delete it to make a new one") from error


def summary(outputs: Mapping[str, np.ndarray]) -> list[str]:
    """Outputs in short, one line each."""
    return [
        f"{name} {list(a.shape)}: mean {a.mean():.6g}, deviation {a.std():.6g}, first "
        + ", ".join(f"{value:.6g}" for value in a.reshape(-1)[:4])
        for name, a in outputs.items()
    ]
