"""What is measured, and in which order: the most important programs first, as the time may end at any moment."""

import argparse
import itertools
import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from benchmarks.sample import settings_of
from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.config import to_dataclass
from sarwmix_jax.settings.model import ModelSettings

TASKS = ("pretrain", "finetune", "inference")


@dataclass(eq=False)
class Program:
    """One program, which a child process runs, and its measurements.

    Attributes:
        task: Task of a step; programs with the same task, `size`, `batch` (images), `dtype` and `device` are compared.
        name: Its name in the report.
        kind: `jax`, or the PyTorch program (`eager`, `compiled`, `products`).
        changes: Changed settings of the model.
        xla_flags: Flags added to XLA_FLAGS, separated by spaces.
        feed: Source of a JAX program's batches: `synthetic`, `fed` by the input pipeline, or `resident`.
        reason: Why it was not measured, or not completely.
        setup: The child's answer after the set-up.
        rounds: Rounds with `wave`, `number`, `steps`, `seconds` and more.
    """

    task: str
    size: str
    batch: int
    dtype: str
    device: str
    name: str = "default"
    kind: str = "jax"
    changes: dict[str, Any] = field(default_factory=dict)
    xla_flags: str = ""
    feed: str = "synthetic"
    reason: str = ""
    setup: dict[str, Any] = field(default_factory=dict, init=False)
    rounds: list[dict[str, Any]] = field(default_factory=list, init=False)

    @property
    def workload(self) -> str:
        """What the compared programs have in common, as a heading."""
        return f"{self.task} {self.size}, batch {self.batch}, {self.dtype}"


Group = list[Program]
"""Programs of one workload that take turns; the others are compared with the first one."""

PEERS = {
    "eager": "eager PyTorch",
    "compiled": "compiled PyTorch",
    "products": "compiled PyTorch, attention as products",
}
"""PyTorch programs by kind; the last one leaves attention to PyTorch's compiler, where this is faster."""

VARIANTS = {
    "plain": "attention=plain,decoder=full,scan=false",
    "fused kernel": "kernel=fused",
    "cudnn attention": "kernel=cudnn",
    "chosen kernels": "kernel=auto",
    "recompute elementwise": "recompute=elementwise",
    "recompute blocks": "recompute=block",
    "scan": "scan=true",
    "unrolled": "scan=false",
    "no group gathering": "attention=plain",
    "full decoder": "decoder=full",
    "latency hiding": "xla=--xla_gpu_enable_latency_hiding_scheduler=true",
    "no triton gemm": "xla=--xla_gpu_enable_triton_gemm=false",
    "no command buffers": "xla=--xla_gpu_enable_command_buffer=",
    "autotune 0": "xla=--xla_gpu_autotune_level=0",
}
"""Variants of the default program by name."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {
        "tasks": TASKS[:1],
        "sizes": ("base",),
        "peers": ("eager",),
        "variants": ("plain",),
        "dtype": "float32",
    },
    "gpu": {
        "tasks": TASKS,
        "sizes": ("base", "large", "huge"),
        "peers": tuple(PEERS),
        "variants": tuple(name for name in VARIANTS if name != "unrolled"),
        "dtype": "bfloat16",
    },
}
"""What is measured on a device by default."""

FEEDS = ("fed", "resident")
BATCHES = {"cpu": dict.fromkeys(TASKS, 8), "gpu": dict.fromkeys(TASKS, 256) | {"finetune": 128}}


def parse_variant(text: str) -> dict[str, Any]:
    """Fields of a `Program` from `NAME`, a predefined variant, or `NAME:field=value,field=value`.

    The fields are settings of the model; `xla` adds to XLA_FLAGS.

    Raises:
        UserError: The text has another form, or the model has no such setting or value.
    """
    name, _, settings = text.partition(":")
    settings = settings or VARIANTS.get(text, "")
    if not (name and re.fullmatch(r"\w+=[^,]+(,\w+=[^,]+)*", settings)):
        raise UserError(f"--variants has {text!r}; use NAME:field=value or one of {', '.join(VARIANTS)}")
    changes = {key: value_of(value) for key, _, value in (each.partition("=") for each in settings.split(","))}
    flags = changes.pop("xla", "")
    to_dataclass({**asdict(settings_of("base")), "dtype": "bfloat16", **changes}, ModelSettings, "model.")
    return {"name": name, "changes": changes, "xla_flags": flags}


def value_of(text: str) -> Any:
    """A number, a truth value, or the text itself."""
    with suppress(ValueError):
        return json.loads(text)
    return text


def make_plan(options: argparse.Namespace) -> list[Group]:
    """All groups: the tasks at the first size and batch, the variants of the first of them, then the rest.

    Raises:
        UserError: A variant or a number is invalid, or the pipeline would have to feed steps that need labels.
    """
    for name, value in DEFAULTS[options.device].items():
        setattr(options, name, value if getattr(options, name) is None else getattr(options, name))
    if min(options.rounds, options.records, options.threads, *(options.batches or ())) < 1:
        raise UserError("--rounds, --records, --threads and --batches must be at least 1")
    if options.fed and options.tasks[0] == "finetune":
        raise UserError("--fed feeds images alone; name pretrain or inference first in --tasks")
    variants = [*map(parse_variant, options.variants), *({"name": feed, "feed": feed} for feed in FEEDS if options.fed)]
    groups: list[Group] = []
    for size, batch, task in itertools.product(options.sizes, options.batches or [None], options.tasks):
        default = Program(task, size, batch or BATCHES[options.device][task], options.dtype, options.device)
        groups.append([default, *(replace(default, name=PEERS[peer], kind=peer) for peer in options.peers)])
    if variants:
        default = groups[0][0]
        groups.insert(len(options.tasks), [default, *(replace(default, **variant) for variant in variants)])
    return groups
