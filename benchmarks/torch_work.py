"""What is timed of PyTorch: one step of pretraining, finetuning or inference of the plain or the strong peer.

The eager peer is the plain model with PyTorch's defaults: autocast, AdamW as it comes, a loss read after each training
step. The strong peer is compiled, has fused attention and a fused AdamW, and waits for nothing. Both keep float32
parameters; their lower precision is bfloat16 autocast, where the published runs used float16 with loss scaling. The
whole way from raw records is in the step: resizing, flips, standardisation, weights, mask.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.torch_input import Preparation, draw_records
from benchmarks.torch_optimizer import (
    FINETUNING_BETAS,
    PRETRAINING_BETAS,
    finetuning_groups,
    make_adamw,
    pretraining_groups,
    set_rate,
)
from benchmarks.torch_reference import TorchClassifier, TorchMixMAE, per_channel_weights, pretraining_loss
from benchmarks.torch_strong import StrongClassifier, StrongMixMAE
from sarwmix_jax.settings.model import ModelSettings

Task = Literal["pretrain", "finetune", "inference"]
CHOICES = {
    "task": ("pretrain", "finetune", "inference"),
    "peer": ("eager", "strong"),
    "device": ("cpu", "cuda"),
    "dtype": ("float32", "bfloat16"),
}

CLASSES, DROP_PATH = 19, 0.1
BATCHES = 3
"""Batches that lie on the device and are used in turn."""

PEAK_RATE, WARMUP_STEPS = 1e-4, 100
"""The learning rate changes at every step, as it does in a run."""


@dataclass(frozen=True)
class Choices:
    """What is timed, on what.

    Raises:
        ValueError: a value is not one of CHOICES.
    """

    task: Task
    peer: Literal["eager", "strong"]
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; use one of {', '.join(allowed)}")

    @property
    def strong(self) -> bool:
        """Whether this is the strong peer."""
        return self.peer == "strong"

    def precision(self) -> torch.autocast | nullcontext:
        """Autocast for bfloat16."""
        return torch.autocast(self.device, torch.bfloat16) if self.dtype == "bfloat16" else nullcontext()


@dataclass(frozen=True)
class Draws:
    """What is random in one step; None where the task needs none.

    Attributes:
        flips: (2, batch) booleans.
        mask: 0/1 per cell, half of them 1.
        paths: (blocks, 2, batch), uniform in 0..1, for drop path.
    """

    flips: Tensor | None = None
    mask: Tensor | None = None
    paths: Tensor | None = None


def draw(task: Task, settings: ModelSettings, batch: int, generator: torch.Generator) -> Draws:
    """Draws on the generator's device, without waiting for it."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device)

    if task == "inference":
        return Draws()
    flips = uniform(2, batch) < 0.5
    if task == "finetune":
        return Draws(flips, paths=uniform(sum(settings.depths), 2, batch))
    return Draws(flips, mask=(uniform(settings.cells).argsort() < settings.cells // 2).float())


def make_model(choices: Choices, settings: ModelSettings, attention: str) -> nn.Module:
    """The peer's model on its device, drawn."""
    strong = {"attention": attention} if choices.strong else {}
    if choices.task == "pretrain":
        model = (StrongMixMAE if choices.strong else TorchMixMAE)(settings, **strong)
    else:
        model = (StrongClassifier if choices.strong else TorchClassifier)(settings, CLASSES, **strong)
    initialise(model)
    model = model.to(choices.device)
    if choices.task == "inference" and choices.strong and choices.dtype == "bfloat16":
        for layer in model.modules():  # what autocast would do again at every step
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.to(torch.bfloat16)
    return model.train(choices.task != "inference")


def initialise(model: nn.Module) -> None:
    """Draws the dense layers Xavier-uniform, tables and the mask token with deviation 0.02."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for name, parameter in model.named_parameters():
        if name.endswith("relative_position_bias_table") or name == "mask_token":
            nn.init.trunc_normal_(parameter, std=0.02)


def forward_of(choices: Choices, model: nn.Module, prepare: Preparation) -> Callable[..., Tensor]:
    """(records, labels, draws) -> the loss, or for inference the logits."""

    def pretrain(records: Tensor, _: Tensor, flips: Tensor, mask: Tensor, __: None) -> Tensor:
        with choices.precision():
            images, db = prepare(records, flips)
            return pretraining_loss(model, images, per_channel_weights(db), mask)

    def finetune(records: Tensor, labels: Tensor, flips: Tensor, _: None, paths: Tensor) -> Tensor:
        with choices.precision():
            logits = model(prepare(records, flips)[0], paths)
            return F.multilabel_soft_margin_loss(logits.float(), labels)

    def inference(records: Tensor, *_: Tensor | None) -> Tensor:
        with choices.precision():
            return model(prepare(records)[0])

    return {"pretrain": pretrain, "finetune": finetune, "inference": inference}[choices.task]


class Work:
    """One contender: its model, its data on the device, its step."""

    def __init__(
        self,
        choices: Choices,
        settings: ModelSettings,
        batch: int,
        forward: Callable[..., Tensor],
        model: nn.Module,
        *,
        seed: int,
    ):
        self.choices, self.settings, self.batch, self.forward, self.model = choices, settings, batch, forward, model
        self.generator = torch.Generator(choices.device).manual_seed(seed)
        self.records = [draw_records(batch, seed + number).to(choices.device) for number in range(BATCHES)]
        rng = torch.Generator().manual_seed(seed)
        labels = (torch.rand((BATCHES, batch, CLASSES), generator=rng) < 0.15).float()
        self.labels = list(labels.to(choices.device))
        self.optimizer = make_optimizer(choices, model, settings)
        self.steps = 0
        self.result = torch.zeros((), device=choices.device)

    def step(self) -> None:
        """Starts one step on the next batch; the eager peer then waits for its loss."""
        number, self.steps = self.steps % BATCHES, self.steps + 1
        draws = draw(self.choices.task, self.settings, self.batch, self.generator)
        inputs = (self.records[number], self.labels[number], draws.flips, draws.mask, draws.paths)
        if self.optimizer is None:
            with torch.inference_mode():
                self.result = self.forward(*inputs)
            return
        set_rate(self.optimizer, PEAK_RATE * min(1.0, self.steps / WARMUP_STEPS))
        loss = self.forward(*inputs)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.result = loss.detach()
        if not self.choices.strong:
            self.result.item()

    def wait(self) -> None:
        """Returns when all that was started is done."""
        if self.choices.device == "cuda":
            torch.cuda.synchronize()

    def loss(self) -> float:
        """The last step's loss; for inference the mean logit, which is as finite as its parts."""
        return self.result.float().mean().item()

    def peak_bytes(self) -> int | None:
        """Most device memory held at once since the work was made; None on a CPU, where PyTorch does not count it."""
        return torch.cuda.max_memory_allocated() if self.choices.device == "cuda" else None

    def versions(self) -> dict[str, str]:
        """Of PyTorch and what it stands on."""
        found = {"torch": torch.__version__}
        if self.choices.device == "cuda":
            found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
            found["device"] = torch.cuda.get_device_name()
        return found


def make_optimizer(choices: Choices, model: nn.Module, settings: ModelSettings) -> torch.optim.Optimizer | None:
    """The task's AdamW; None for inference."""
    if choices.task == "pretrain":
        return make_adamw(pretraining_groups(model), PRETRAINING_BETAS, strong=choices.strong)
    if choices.task == "finetune":
        return make_adamw(finetuning_groups(model, settings.depths), FINETUNING_BETAS, strong=choices.strong)
    return None


def meet_tensors() -> None:
    """Shows einops every type of tensor: a type it first meets while a step is traced makes that step compile twice."""
    for tensor in (torch.zeros(1), nn.Parameter(torch.zeros(1))):
        rearrange(tensor, "n -> n")


def make_work(
    task: Task,
    settings: ModelSettings,
    batch: int,
    *,
    peer: Literal["eager", "strong"],
    device: Literal["cpu", "cuda"],
    dtype: Literal["float32", "bfloat16"],
    compile: bool,
    seed: int = 0,
    attention: Literal["fused", "products"] = "fused",
    compile_mode: str = "default",
) -> Work:
    """Builds one contender; the first steps compile.

    Args:
        task: What a step does.
        settings: Shape of the model; its dtype is not read, and finetuning sets its own drop path.
        batch: Images a step.
        peer: The plain model, or the fast one.
        device: Where it runs.
        dtype: float32, or bfloat16 autocast.
        compile: Whether `torch.compile` compiles the way from records to the loss.
        seed: Of weights, data and all draws.
        attention: How the strong peer attends: PyTorch's fused kernels, or products that the compiler fuses.
        compile_mode: `mode` of `torch.compile`.

    Raises:
        ValueError: a value is not one of the allowed.
    """
    choices = Choices(task, peer, device, dtype)
    torch.manual_seed(seed)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        # PyTorch's own default for the eager peer
        torch.set_float32_matmul_precision("high" if choices.strong else "highest")
    settings = replace(settings, drop_path=DROP_PATH if task == "finetune" else 0.0)
    model = make_model(choices, settings, attention)
    forward = forward_of(choices, model, Preparation(settings.image_size).to(device))
    if compile:
        meet_tensors()
        forward = torch.compile(forward, fullgraph=True, dynamic=False, mode=compile_mode)
    return Work(choices, settings, batch, forward, model, seed=seed)
