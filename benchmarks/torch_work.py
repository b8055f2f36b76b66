"""What is timed of PyTorch: one step of pretraining, finetuning or inference of the plain or the strong peer.

The eager peer is the plain model with PyTorch's defaults: autocast, AdamW as it comes, a loss read after each training
step. The strong peer is compiled, has fused attention and a fused AdamW, and waits for nothing. Both keep float32
parameters; their lower precision is bfloat16 autocast, where the published runs used float16 with loss scaling. The
whole way from raw records is in the step: resizing, flips, standardisation, weights, mask.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sample import BATCHES, CLASSES, DATA, host_batches, settings_of
from benchmarks.torch_golden import TOLERANCES, golden_differences
from benchmarks.torch_optimizer import (
    FINETUNING_BETAS,
    PRETRAINING_BETAS,
    finetuning_groups,
    make_adamw,
    pretraining_groups,
    set_rate,
    trained,
)
from benchmarks.torch_reference import per_channel_weights, pretraining_loss
from benchmarks.torch_strong import make_peer
from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.model import ModelSettings

DROP_PATH = 0.1
DEVICES = {"cpu": "cpu", "gpu": "cuda"}
PEAK_RATE, WARMUP_STEPS = 1e-4, 100
"""The learning rate changes at every step, as it does in a run."""


def checked_work(spec: dict[str, Any]) -> "TorchWork":
    """The work that the parent describes, after its model was held against the golden numbers.

    Raises:
        UserError: It is further away than the tolerances.
    """
    differences = golden_differences(spec["kind"], classifier=spec["task"] != "pretrain", **spec["changes"])
    for name, difference in differences.items():
        if not difference < TOLERANCES[name]:
            raise UserError(f"{name} of the {spec['kind']} peer is {difference:.1e} away from the golden numbers")
    work = TorchWork(spec, settings_of(spec["size"]), compiled=spec["kind"] == "strong")
    work.facts["golden"] = max(differences.values())
    return work


def preparation(side: int, device: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """The way of raw records into a model of this image side; the same arithmetic as this project's own step."""
    statistics = (DATA.mean_db, DATA.std_db)
    mean, std = (torch.tensor(values, device=device).reshape(-1, 1, 1) for values in statistics)

    def prepare(records: Tensor, flips: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Standardised images and the same in dB, float32 (batch, band, side, side).

        Args:
            records: Backscatter in dB (batch, band, height, width), any float type.
            flips: Booleans (2, batch): mirrored left-right, mirrored top-bottom; without them nothing is mirrored.
        """
        db, given = records.float(), records.shape[-1]
        if given != side:
            db = F.interpolate(db, size=(side, side), mode="bilinear", antialias=given > side)
        for axis, flip in zip((-1, -2), () if flips is None else flips, strict=flips is not None):
            db = torch.where(flip[:, None, None, None], db.flip(axis), db)
        return (db - mean) / std, db

    return prepare


def draw(task: str, settings: ModelSettings, batch: int, generator: torch.Generator) -> tuple[Tensor | None, ...]:
    """What is random in one step, drawn on the generator's device without waiting for it; None where not needed.

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


class TorchWork:
    """One peer's model, its data on the device, its step; see `benchmarks.child.Work`.

    Args:
        spec: The `task`, the images a step (`batch`), `dtype`, `device`, the `kind` of peer (`eager` or `strong`), and
            `changes`: further arguments of its model.
        settings: Shape of the model; its dtype is not read, and finetuning sets its own drop path.
        compiled: Whether `torch.compile` compiles the way from records to the loss.
    """

    read_ahead = 0

    def __init__(self, spec: dict[str, Any], settings: ModelSettings, compiled: bool):
        torch.manual_seed(0)
        self.task, self.batch, self.low = spec["task"], spec["batch"], spec["dtype"] == "bfloat16"
        self.device, self.strong, self.steps = DEVICES[spec["device"]], spec["kind"] == "strong", 0
        self.settings = replace(settings, drop_path=DROP_PATH if self.task == "finetune" else 0.0)
        self.facts: dict[str, Any] = {"versions": {"torch": torch.__version__}}
        if self.device == "cuda":  # PyTorch's own default for the eager peer
            torch.set_float32_matmul_precision("high" if self.strong else "highest")
        self.generator = torch.Generator(self.device).manual_seed(0)
        classes = None if self.task == "pretrain" else CLASSES
        self.model = make_peer(spec["kind"], self.settings, classes, **spec["changes"]).to(self.device)
        self.model.train(self.task != "inference")
        for _, parameter in trained(self.model):
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        self.optimizer = None
        if self.task == "pretrain":
            self.optimizer = make_adamw(pretraining_groups(self.model), PRETRAINING_BETAS, strong=self.strong)
        elif self.task == "finetune":
            groups = finetuning_groups(self.model, settings.depths)
            self.optimizer = make_adamw(groups, FINETUNING_BETAS, strong=self.strong)
        elif self.strong and self.low:
            for layer in self.model.modules():  # what autocast would do again at every step
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    layer.to(torch.bfloat16)
        host = host_batches(BATCHES, self.batch)
        self.data = [[torch.from_numpy(each[name]).to(self.device) for name in ("image", "labels")] for each in host]
        self.prepare, self.run = preparation(settings.image_size, self.device), self.forward
        if compiled:
            for tensor in (torch.zeros(1), nn.Parameter(torch.zeros(1))):
                rearrange(tensor, "n -> n")  # a type that einops first meets while tracing makes a step compile twice
            self.run = torch.compile(self.forward, fullgraph=True, dynamic=False)

    def forward(self, records: Tensor, labels: Tensor, flips: Tensor, mask: Tensor, paths: Tensor) -> Tensor:
        """The loss, or for inference the logits."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.low):
            images, db = self.prepare(records, flips)
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
            if not self.strong:
                self.result.item()

    def wait(self) -> None:
        """Returns when all that was started is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def numbers(self) -> dict[str, float]:
        """The last step's loss; for inference the mean logit, which is as finite as its parts."""
        return {"loss": self.result.float().mean().item()}

    def peak_bytes(self) -> int | None:
        """Most device memory held at once; None on a CPU, where PyTorch does not count it."""
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else None
