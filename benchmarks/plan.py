"""What is measured, and in which order: the most important first, for the time may end at any moment."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.variants import DEFAULT, PLAIN, PREDEFINED, Variant
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.sizes import SIZES

TASKS = ("pretrain", "finetune", "inference")
PEERS = ("eager", "strong")
DTYPES = ("float32", "bfloat16")
DEVICES = ("cpu", "gpu")
TINY = "tiny"
"""A size for rehearsals: one block a stage, as good as no arithmetic."""

GPU_BATCHES = {"pretrain": 256, "finetune": 128, "inference": 256}
GPU_SWEEP = (64, 128, 512)
PRODUCTS = {"attention": "products"}
"""The strong peer with attention as products and a softmax that its compiler fuses, where that is faster."""

CPU_BATCH = 8
ONE_THREAD = "host pipeline, one thread"


@dataclass(frozen=True)
class Workload:
    """One step that contenders compete in."""

    task: str
    size: str
    batch: int
    dtype: str
    device: str

    def __str__(self) -> str:
        return f"{self.task} {self.size}, batch {self.batch}, {self.dtype}"


@dataclass(frozen=True)
class Contender:
    """One child process to be.

    Attributes:
        name: As the report calls it; unique in a group.
        kind: "ours", "torch" or "host" (the input pipeline alone).
        variant: Settings of ours.
        peer: Which PyTorch peer.
        feed: Where ours gets its batches: "synthetic", "fed" or "resident".
        options: Of the feed: folder, threads, workers.
    """

    name: str
    kind: str = "ours"
    variant: Variant = DEFAULT
    peer: str | None = None
    feed: str = "synthetic"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """Contenders of one workload that take turns; the first is what the others are compared with."""

    workload: Workload
    contenders: tuple[Contender, ...]
    profile: bool = False


@dataclass(frozen=True)
class Options:
    """What the user asked for; None: the device's own choice."""

    device: str
    tasks: tuple[str, ...] | None = None
    sizes: tuple[str, ...] | None = None
    batches: tuple[int, ...] | None = None
    dtype: str | None = None
    variants: tuple[Variant, ...] | None = None
    peers: tuple[str, ...] | None = None
    fed: bool = False
    threads: int = 4
    workers: int = 0
    records: int = 4096
    profile: bool = False
    rounds: int = 5
    round_seconds: float = 1.5

    def __post_init__(self) -> None:
        values = {
            "device": ((self.device,), DEVICES),
            "dtype": ((self.dtype,) if self.dtype is not None else (), DTYPES),
            "tasks": (self.tasks or (), TASKS),
            "sizes": (self.sizes or (), (*SIZES, TINY)),
            "peers": (self.peers or (), PEERS),
        }
        for name, (given, known) in values.items():
            for value in given:
                if value not in known:
                    raise UserError(f"--{name} has {value!r}; use one of {', '.join(known)}")
        if self.batches is not None and min(self.batches) < 1:
            raise UserError(f"--batches has {min(self.batches)}; give numbers above 0")


def make_plan(options: Options) -> list[Group]:
    """All groups, the most important first."""
    on_gpu = options.device == "gpu"
    tasks = options.tasks or (TASKS if on_gpu else TASKS[:1])
    sizes = options.sizes or (tuple(SIZES) if on_gpu else ("base",))
    dtype = options.dtype or ("bfloat16" if on_gpu else "float32")
    first = [_main_group(options, task, sizes[0], dtype) for task in tasks]
    groups = [replace(first[0], profile=options.profile), *first[1:]]
    groups += _variant_groups(options, first[0].workload)
    if options.fed:
        groups.append(_fed_group(options, first[0].workload))
    for size in sizes[1:]:
        asked = tasks if options.tasks else tasks[:1]
        groups += [_main_group(options, task, size, dtype, plain=False) for task in asked]
    return groups + _sweep(options, first)


def _sweep(options: Options, first: Sequence[Group]) -> list[Group]:
    """Other batches: those asked for with all contenders, a GPU's own choice with the default alone."""
    if options.batches:
        wanted = [(group, batch) for group in first for batch in options.batches[1:]]
        return [replace(group, workload=replace(group.workload, batch=batch), profile=False) for group, batch in wanted]
    batches = GPU_SWEEP if options.device == "gpu" else ()
    return [Group(replace(first[0].workload, batch=batch), first[0].contenders[:1]) for batch in batches]


def _main_group(options: Options, task: str, size: str, dtype: str, plain: bool = True) -> Group:
    on_gpu = options.device == "gpu"
    batch = options.batches[0] if options.batches else GPU_BATCHES[task] if on_gpu else CPU_BATCH
    peers = options.peers if options.peers is not None else PEERS if on_gpu else PEERS[:1]
    contenders = [Contender("default")]
    contenders += [Contender(f"{peer} PyTorch", "torch", peer=peer) for peer in peers]
    contenders += [Contender("plain", variant=PLAIN)] if plain else []
    if on_gpu and "strong" in peers and task == "pretrain" and plain:
        contenders.append(Contender("strong PyTorch, products", "torch", peer="strong", options=PRODUCTS))
    return Group(Workload(task, size, batch, dtype, options.device), tuple(contenders))


def _variant_groups(options: Options, workload: Workload) -> list[Group]:
    chosen = options.variants
    if chosen is None:
        chosen = tuple(PREDEFINED.values()) if options.device == "gpu" else ()
    contenders = tuple(Contender(variant.name, variant=variant) for variant in chosen)
    return [Group(workload, (Contender("default"), *contenders))] if contenders else []


def _fed_group(options: Options, workload: Workload) -> Group:
    feed = feed_options(options.threads, options.workers) | {"records": options.records}
    contenders = (
        Contender("default"),
        Contender("fed", feed="fed", options=feed),
        Contender("resident", feed="resident", options=feed),
        Contender(ONE_THREAD, "host", options=feed | feed_options(1, 0)),
        Contender("host pipeline", "host", options=feed),
    )
    return Group(replace(workload, task="pretrain"), contenders)


def feed_options(threads: int, workers: int, prefetch: int = 4) -> dict[str, int]:
    """How the pipeline reads; `buffered` is how many batches it may have ready."""
    buffered = max(prefetch, threads) + workers * prefetch
    return {"threads": threads, "workers": workers, "prefetch": prefetch, "buffered": buffered}


def names(groups: Sequence[Group]) -> list[str]:
    """One line a group, for whoever waits."""
    return [f"{group.workload}: {', '.join(each.name for each in group.contenders)}" for group in groups]
