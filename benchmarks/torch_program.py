"""The PyTorch programs to time: one step of pretraining, finetuning or inference of the reference model.

The eager program uses PyTorch's defaults: autocast, default AdamW, and the loss is read after each training step. The
compiled programs use fused AdamW and wait for nothing; `compiled` also uses fused attention, `products` leaves
attention to the compiler. All have float32 parameters; their lower precision is bfloat16 autocast, where the published
runs used float16 with loss scaling. A step includes everything from raw records on: resizing, flips, standardisation,
weights, mask.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sample import BATCHES, CLASSES, DATA, TINY, host_batches, settings_of
from benchmarks.torch_reference import (
    Attention,
    TorchClassifier,
    TorchMixMAE,
    fused_attend,
    per_channel_weights,
    pretraining_loss,
)
from sarwmix_jax.conversion.torch_file import read_checkpoint
from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.model import ModelSettings

DEVICES = {"cpu": "cpu", "gpu": "cuda"}
DROP_PATH = 0.1
WEIGHT_DECAY = 0.05
RECIPES = {"pretrain": ((0.9, 0.95), 1.0), "finetune": ((0.9, 0.999), 0.7)}
"""Betas and layer decay of the tasks that train."""

PEAK_RATE, WARMUP_STEPS = 1e-4, 100
"""The learning rate changes at every step, as in a run."""

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
ENCODER, RECONSTRUCTION, LOSS, GRADIENT, LOGITS = "encoder_out", "x_rec", "loss", "largest gradient error", "logits"
TOLERANCES = {ENCODER: 2e-5, RECONSTRUCTION: 5e-5, LOSS: 1e-5, GRADIENT: 1e-4, LOGITS: 2e-5}
"""Largest difference allowed; for a gradient relative to the largest value of its tensor."""


def make_model(peer: str, settings: ModelSettings, classes: int | None = None) -> nn.Module:
    """The autoencoder or, with a number of classes, the classifier; attention is fused in the peer `compiled`."""
    model = TorchMixMAE(settings) if classes is None else TorchClassifier(settings, classes)
    for layer in model.modules():
        if isinstance(layer, Attention) and peer == "compiled":
            layer.attend = fused_attend
    return model


def released_weights(path: Path) -> dict[str, Tensor]:
    """State dict of a file in the released layout."""
    return {name: torch.from_numpy(np.array(array)) for name, array in read_checkpoint(path).model.items()}


def golden_differences(peer: str, folder: Path = GOLDEN, classifier: bool = False) -> dict[str, float]:
    """Largest difference of each quantity in TOLERANCES that a model computes, in float32 on the CPU.

    Args:
        peer: `eager`, `compiled` or `products`; none is compiled here.
        folder: Folder of `pretrain_tiny.npz`, `finetune_tiny.npz` and the `.pth` files of these names.
        classifier: Whether to check the classifier instead of the autoencoder.
    """
    name = "finetune_tiny" if classifier else "pretrain_tiny"
    with np.load(folder / f"{name}.npz") as file:
        stored = dict(file)
    model = make_model(peer, TINY, CLASSES if classifier else None)
    model.load_state_dict(released_weights(folder / f"{name}.pth"), strict=True)
    images, _ = prepare(torch.from_numpy(stored["x_db"]), TINY.image_size, band_statistics())
    if classifier:
        found = {LOGITS: model(images)}
        loss = F.multilabel_soft_margin_loss(found[LOGITS], torch.from_numpy(stored["y"]).float())
    else:
        mask = torch.from_numpy(stored["mask"])
        found = {ENCODER: model.encode(images, mask), RECONSTRUCTION: model(images, mask)}
        loss = pretraining_loss(model, images, per_channel_weights(images), mask)
    loss.backward()
    gradients = {f"grad/{name}": p.grad for name, p in model.named_parameters() if f"grad/{name}" in stored}
    worst = max(largest(value, stored[key]) / np.abs(stored[key]).max() for key, value in gradients.items())
    found[LOSS] = loss
    return {GRADIENT: float(worst)} | {key: largest(value, stored[key]) for key, value in found.items()}


def largest(value: Tensor, expected: np.ndarray) -> float:
    """Largest absolute difference."""
    return float(np.abs(value.detach().numpy() - expected).max())


def band_statistics(device: str = "cpu") -> list[Tensor]:
    """Mean and standard deviation in dB, (band, 1, 1) each."""
    return [torch.tensor(values, device=device).reshape(-1, 1, 1) for values in (DATA.mean_db, DATA.std_db)]


def prepare(records: Tensor, side: int, statistics: list[Tensor], flips: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Standardised images, and the same in dB, float32 (batch, band, side, side).

    Args:
        records: Backscatter in dB (batch, band, height, width), any float type.
        side: Height and width in pixels of the model's images.
        statistics: See `band_statistics`.
        flips: Booleans (2, batch): mirrored left-right, mirrored top-bottom; without them nothing is mirrored.
    """
    db, given, (mean, std) = records.float(), records.shape[-1], statistics
    if given != side:
        db = F.interpolate(db, size=(side, side), mode="bilinear", antialias=given > side)
    for axis, flip in zip((-1, -2), () if flips is None else flips, strict=flips is not None):
        db = torch.where(flip[:, None, None, None], db.flip(axis), db)
    return (db - mean) / std, db


def draw(task: str, settings: ModelSettings, batch: int, generator: torch.Generator) -> tuple[Tensor | None, ...]:
    """Random numbers of one step, drawn on the generator's device without waiting for it; None where not needed.

    Returns:
        Flips, booleans (2, batch); the mask, 0/1 per cell, half of them 1; for drop path, uniform in 0..1
        (blocks, 2, batch).
    """
    if task == "inference":
        return None, None, None
    uniform = partial(torch.rand, generator=generator, device=generator.device)
    flips = uniform(2, batch) < 0.5
    if task == "finetune":
        return flips, None, uniform(sum(settings.depths), 2, batch)
    return flips, (uniform(settings.cells).argsort() < settings.cells // 2).float(), None


def layer_of(name: str, depths: tuple[int, ...]) -> int:
    """Layer of a parameter: 0 the patch embedding, 1.. the blocks, the last block's number the final norm and head."""
    part, *path = name.split(".")
    if part != "layers":
        return 0 if part == "patch_embed" else sum(depths)
    stage = int(path[0])
    return sum(depths[:stage]) + (depths[stage] if path[1] == "downsample" else int(path[2])) + 1


def make_adamw(model: nn.Module, task: str, depths: tuple[int, ...], peer: str) -> torch.optim.AdamW:
    """AdamW at rate 0 until `set_rate`, as PyTorch chooses or fused: the published groups by layer and weight decay."""
    betas, layer_decay = RECIPES[task]
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = layer_decay ** (sum(depths) + 1 - layer_of(name, depths))
            groups.setdefault((scale, 0.0 if parameter.ndim == 1 else WEIGHT_DECAY), []).append(parameter)
    listed = [{"params": found, "weight_decay": decay, "scale": scale} for (scale, decay), found in groups.items()]
    return torch.optim.AdamW(listed, lr=0.0, betas=betas, eps=1e-8, fused=None if peer == "eager" else True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of every group; waits for nothing."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


class TorchProgram:
    """The model, data and step of one peer; see `benchmarks.child.Work`.

    Args:
        spec: `task`, `batch` (images per step), `dtype`, `device`, and the `kind` of peer.
        settings: Shape of the model; its dtype is ignored, and finetuning sets its own drop path.
        compiled: Whether `torch.compile` compiles everything from records to the loss.
    """

    read_ahead = 0

    def __init__(self, spec: dict[str, Any], settings: ModelSettings, compiled: bool):
        torch.manual_seed(0)
        self.task, self.batch, self.low = spec["task"], spec["batch"], spec["dtype"] == "bfloat16"
        self.device, self.eager, self.steps = DEVICES[spec["device"]], spec["kind"] == "eager", 0
        self.settings = replace(settings, drop_path=DROP_PATH if self.task == "finetune" else 0.0)
        self.facts: dict[str, Any] = {"versions": {"torch": torch.__version__}}
        if self.device == "cuda":  # PyTorch's own default for the eager peer
            torch.set_float32_matmul_precision("highest" if self.eager else "high")
        self.generator = torch.Generator(self.device).manual_seed(0)
        self.model = make_model(spec["kind"], self.settings, None if self.task == "pretrain" else CLASSES)
        self.model.to(self.device).train(self.task != "inference")
        for parameter in self.model.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        training = self.task in RECIPES
        self.optimizer = make_adamw(self.model, self.task, settings.depths, spec["kind"]) if training else None
        host = host_batches(BATCHES, self.batch)
        self.data = [[torch.from_numpy(each[name]).to(self.device) for name in ("image", "labels")] for each in host]
        self.statistics, self.run = band_statistics(self.device), self.forward
        if compiled:
            for tensor in (torch.zeros(1), nn.Parameter(torch.zeros(1))):
                rearrange(tensor, "n -> n")  # a type that einops first meets under tracing makes a step compile twice
            self.run = torch.compile(self.forward, fullgraph=True, dynamic=False)

    def forward(self, records: Tensor, labels: Tensor, flips: Tensor, mask: Tensor, paths: Tensor) -> Tensor:
        """The loss, or for inference the logits."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.low):
            images, db = prepare(records, self.settings.image_size, self.statistics, flips)
            if self.task == "pretrain":
                return pretraining_loss(self.model, images, per_channel_weights(db), mask)
            logits = self.model(images, paths)
            return logits if self.task == "inference" else F.multilabel_soft_margin_loss(logits.float(), labels)

    def step(self) -> None:
        """Starts one step on the next batch; the eager peer then waits for its loss."""
        given = *self.data[self.steps % len(self.data)], *draw(self.task, self.settings, self.batch, self.generator)
        self.steps += 1
        with torch.inference_mode(self.optimizer is None):
            loss = self.run(*given)
            self.result = loss.detach()
        if self.optimizer is not None:
            loss.backward()
            set_rate(self.optimizer, PEAK_RATE * min(1.0, self.steps / WARMUP_STEPS))
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if self.eager:
                self.result.item()

    def wait(self) -> None:
        """Returns when all started steps are done."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def numbers(self) -> dict[str, float]:
        """Loss of the last step; for inference the mean logit, which is finite if all logits are."""
        return {"loss": self.result.float().mean().item()}

    def peak_bytes(self) -> int | None:
        """Largest use of device memory in bytes; None on a CPU, where PyTorch does not count it."""
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else None


def checked_program(spec: dict[str, Any]) -> TorchProgram:
    """The program of a specification, after a comparison of its model with the golden numbers.

    Raises:
        UserError: A difference is larger than its tolerance.
    """
    differences = golden_differences(spec["kind"], classifier=spec["task"] != "pretrain")
    for name, difference in differences.items():
        if not difference < TOLERANCES[name]:
            raise UserError(f"{name} of the {spec['kind']} peer is {difference:.1e} away from the golden numbers")
    program = TorchProgram(spec, settings_of(spec["size"]), compiled=spec["kind"] != "eager")
    program.facts["golden"] = max(differences.values())
    return program
