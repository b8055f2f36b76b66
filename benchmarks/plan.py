"""What is measured, and in which order: the most important first, for the time may end at any moment."""

import argparse
import itertools
import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.sample import settings_of
from sarwmix_jax.errors import UserError

TASKS = ("pretrain", "finetune", "inference", "attention")
"""`attention` is attention alone, forward and backward, at every place of the model; only JAX programs do it."""


@dataclass(frozen=True)
class Workload:
    """One step in which programs are compared."""

    task: str
    size: str
    batch: int
    dtype: str
    device: str

    def __str__(self) -> str:
        return f"{self.task} {self.size}, batch {self.batch}, {self.dtype}"


@dataclass(frozen=True)
class Program:
    """One child process to be.

    Attributes:
        name: Its name in the report, unique in a group.
        kind: `jax`, or which PyTorch peer.
        changes: Of the model's settings; of a peer, further arguments of its model.
        xla_flags: Added to XLA_FLAGS, several of them after a space.
        feed: Where a JAX program gets its batches: `synthetic`, `fed` by the input pipeline, or `resident`.
    """

    name: str
    kind: str = "jax"
    changes: dict[str, Any] = field(default_factory=dict)
    xla_flags: str = ""
    feed: str = "synthetic"


@dataclass(frozen=True)
class Group:
    """Programs of one workload that take turns; the first is what the others are compared with."""

    workload: Workload
    programs: tuple[Program, ...]


DEFAULT = Program("default")
PEERS = {
    "eager": Program("eager PyTorch", "eager"),
    "strong": Program("strong PyTorch", "strong"),
    # attention as products and a softmax that its compiler fuses, where that is faster
    "products": Program("strong PyTorch, products", "strong", {"attention": "products"}),
}
VARIANTS = {
    "plain": "attention=plain,decoder=full,scan=false",
    "fused kernel": "kernel=fused",
    "cudnn attention": "kernel=cudnn",
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
"""Changes of the default by name."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {
        "tasks": TASKS[:1],
        "sizes": ("base",),
        "peers": ("eager",),
        "variants": ("plain",),
        "dtype": "float32",
    },
    "gpu": {
        "tasks": TASKS[:3],
        "sizes": ("base", "large", "huge"),
        "peers": tuple(PEERS),
        "variants": tuple(name for name in VARIANTS if name != "unrolled"),
        "dtype": "bfloat16",
    },
}
"""What is measured on a device unless the user asks for something else."""

BATCHES = {"cpu": dict.fromkeys(TASKS, 8), "gpu": dict.fromkeys(TASKS, 256) | {"finetune": 128}}


def parse_variant(text: str) -> Program:
    """A variant from `NAME`, a predefined one, or `NAME:field=value,field=value`; the field `xla` adds to XLA_FLAGS.

    Raises:
        UserError: The text is neither, or the model has no such setting or value.
    """
    name, _, settings = text.partition(":")
    settings = settings or VARIANTS.get(text, "")
    if not (name and settings):
        raise UserError(f"--variants has {text!r}; use NAME:field=value or one of {', '.join(VARIANTS)}")
    changes = {key: value_of(value) for key, _, value in (each.partition("=") for each in settings.split(","))}
    flags, model = changes.pop("xla", ""), settings_of("base")
    for key, value in changes.items():
        if type(getattr(model, key, None)) is not type(value):
            raise UserError(f"--variants has {text!r}, but model.{key} does not exist or cannot be {value!r}")
    replace(model, **{"dtype": "bfloat16"} | changes)
    return Program(name, changes=changes, xla_flags=flags)


def value_of(text: str) -> Any:
    """A number, a truth value, or the text itself."""
    with suppress(ValueError):
        return json.loads(text)
    return text


def make_plan(options: argparse.Namespace) -> list[Group]:
    """All groups: the tasks at the first size and batch, the variants of the first of them, then the rest.

    Raises:
        UserError: A variant or a number cannot be used, or the pipeline is to feed steps that need labels.
    """
    for name, value in DEFAULTS[options.device].items():
        setattr(options, name, value if getattr(options, name) is None else getattr(options, name))
    if min(options.rounds, options.records, options.threads, *(options.batches or ())) < 1:
        raise UserError("--rounds, --records, --threads and --batches must be at least 1")
    variants = tuple(map(parse_variant, options.variants))
    feeds = tuple(Program(feed, feed=feed) for feed in ("fed", "resident") if options.fed)
    groups = []
    for size, batch, task in itertools.product(options.sizes, options.batches or [None], options.tasks):
        batch = batch or BATCHES[options.device][task]
        peers = () if task == "attention" else tuple(PEERS[peer] for peer in options.peers)
        groups.append(Group(Workload(task, size, batch, options.dtype, options.device), (DEFAULT, *peers)))
    if feeds and options.tasks[0] not in ("pretrain", "inference"):
        raise UserError("--fed feeds images alone; name pretrain or inference first in --tasks")
    if variants or feeds:
        groups.insert(len(options.tasks), Group(groups[0].workload, (DEFAULT, *variants, *feeds)))
    return groups
