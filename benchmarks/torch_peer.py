"""The PyTorch contenders: the project's own peers in `benchmarks/`, checked against the golden numbers first."""

import importlib
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ours import WARM_STEPS, process_peak_bytes
from benchmarks.programs import tiny
from benchmarks.work import Unavailable
from sarwmix_jax.models.settings import ModelSettings, published, windows_for

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
TOLERANCE = 1e-4
"""Relative deviation from the golden loss, absolute from the golden logits."""


class TorchPeer:
    """The eager or the strong peer on one task."""

    def __init__(self, spec: dict[str, Any]):
        self.spec = spec
        self.work: Any

    def set_up(self) -> dict[str, Any]:
        """Checks the peer, builds it, and runs its first steps, which compile."""
        spec = self.spec
        torch_work = import_peers()
        checked = golden_check(spec["task"], spec["peer"])
        settings = tiny() if spec["size"] == "tiny" else published(spec["size"])
        self.work = torch_work.make_work(
            spec["task"],
            settings,
            spec["batch"],
            peer=spec["peer"],
            device="cuda" if spec["device"] == "gpu" else "cpu",
            dtype=spec["dtype"],
            compile=spec["peer"] == "strong",
            **spec["options"],
        )
        first, *later = [self._timed_step() for _ in range(1 + self.spec.get("warm_steps", WARM_STEPS))]
        return {"golden": checked, "compile_seconds": max(first - min(later), 0.0), "step_seconds": min(later)}

    def _timed_step(self) -> float:
        started = time.perf_counter()
        self.step()
        self.wait()
        return time.perf_counter() - started

    def step(self) -> None:
        """Starts one step."""
        self.work.step()

    def wait(self) -> None:
        """Waits for all that was started."""
        self.work.wait()

    def before_round(self) -> None:
        """Nothing is read ahead."""

    def after_round(self) -> dict[str, Any]:
        """The last loss, which must be finite."""
        loss = self.work.loss()
        if not math.isfinite(loss):
            raise Unavailable(f"a step gave the loss {loss}")
        return {"loss": loss}

    def facts(self) -> dict[str, Any]:
        """Peak memory and versions."""
        peak = self.work.peak_bytes()
        memory = {"peak_bytes": peak, "peak_of": "device"}
        if peak is None:
            memory = {"peak_bytes": process_peak_bytes(), "peak_of": "process"}
        return memory | {"versions": self.work.versions()}


def import_peers() -> Any:
    """The module that makes the peers.

    Raises:
        Unavailable: PyTorch or the source checkout is missing.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise Unavailable("PyTorch is not installed") from error
    if not (ROOT / "benchmarks" / "torch_work.py").exists():
        raise Unavailable("not a source checkout: benchmarks/torch_work.py is not there")
    sys.path.insert(0, str(ROOT))
    return importlib.import_module("benchmarks.torch_work")


def golden_settings() -> ModelSettings:
    """The model of the golden numbers."""
    config = json.loads((GOLDEN / "schedules_and_groups.json").read_text())["tiny_config"]
    return ModelSettings(
        embed_dim=config["embed_dim"],
        depths=tuple(config["depths"]),
        num_heads=tuple(config["num_heads"]),
        windows=windows_for(config["img_size"]),
        decoder_dim=config["decoder_dim"],
        decoder_depth=config["decoder_depth"],
        decoder_heads=config["decoder_num_heads"],
    )


def golden_check(task: str, peer: str) -> dict[str, Any]:
    """How far a peer's model is from the numbers of the published system, on the CPU in float32.

    Raises:
        Unavailable: It is further away than the tolerance.
    """
    if not GOLDEN.is_dir():
        return {"checked": False, "why": "tests/golden is not there"}
    deviation = _loss_deviation(peer) if task == "pretrain" else _logits_deviation(peer)
    if not deviation < TOLERANCE:
        raise Unavailable(f"the {peer} peer is {deviation:.1e} away from the golden numbers")
    return {"checked": True, "deviation": deviation}


def _loss_deviation(peer: str) -> float:
    import torch

    torch_reference, torch_strong = _models()
    kind = torch_strong.StrongMixMAE if peer == "strong" else torch_reference.TorchMixMAE
    numbers = np.load(GOLDEN / "pretrain_tiny.npz")
    model = kind(golden_settings())
    model.load_state_dict(_released("pretrain_tiny"), strict=True)
    images, mask = _standardised(numbers["x_db"]), torch.from_numpy(numbers["mask"])
    with torch.inference_mode():
        weights = torch_reference.per_channel_weights(images)
        loss = torch_reference.pretraining_loss(model, images, weights, mask)
    return abs(loss.item() / float(numbers["loss"]) - 1)


def _logits_deviation(peer: str) -> float:
    import torch

    torch_reference, torch_strong = _models()
    kind = torch_strong.StrongClassifier if peer == "strong" else torch_reference.TorchClassifier
    numbers = np.load(GOLDEN / "finetune_tiny.npz")
    model = kind(golden_settings(), numbers["logits"].shape[1])
    model.load_state_dict(_released("finetune_tiny"), strict=True)
    with torch.inference_mode():
        logits = model(_standardised(numbers["x_db"]))
    return float(np.abs(logits.numpy() - numbers["logits"]).max())


def _models() -> tuple[Any, Any]:
    return importlib.import_module("benchmarks.torch_reference"), importlib.import_module("benchmarks.torch_strong")


def _released(name: str) -> dict[str, Any]:
    import argparse

    import torch

    with torch.serialization.safe_globals([argparse.Namespace]):
        weights: dict[str, Any] = torch.load(GOLDEN / f"{name}.pth", weights_only=True)["model"]
    return weights


def _standardised(images_db: np.ndarray) -> Any:
    import torch

    from benchmarks.sample import DATA

    mean, std = (np.asarray(values, np.float32).reshape(-1, 1, 1) for values in (DATA.mean_db, DATA.std_db))
    return torch.from_numpy((images_db.astype(np.float32) - mean) / std)
