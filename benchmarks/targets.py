"""What the speed is measured against: images a second of base on one NVIDIA H200 in bfloat16, and ratios."""

from dataclasses import dataclass, replace

DEVICE = "NVIDIA H200"


@dataclass(frozen=True)
class Target:
    """One figure to reach; `good` and `stretch` are None where only one was set."""

    about: str
    must: float
    good: float | None = None
    stretch: float | None = None


SPEED = {
    "pretrain": Target("pretraining base, batch 256, images/s", 6000, 8000, 9500),
    "finetune": Target("finetuning base, batch 128, images/s", 7000, 9500, 12000),
    "inference": Target("inference base, images/s", 20000, 28000, 36000),
}
BATCHES = {"pretrain": 256, "finetune": 128, "inference": None}
"""Batch that a speed target is meant for; None: any."""

RATIO = {
    "eager": Target("ours / eager PyTorch", 1.5),
    "strong": Target("ours / strong PyTorch", 1.1, None, 1.25),
}
CPU_RATIO = Target("ours / eager PyTorch, CPU, float32", 0.85)
FED = Target("fed / synthetic", 0.97)
HOST = Target("host pipeline, records/s a core", 10000)


def named(target: Target, whose: str) -> Target:
    """The same target, for one task or feed."""
    return replace(target, about=f"{target.about}, {whose}")


def verdict(value: float, target: Target) -> str:
    """The best of must, good and stretch that a value reaches, or how far it is from `must`."""
    reached = [name for name in ("must", "good", "stretch") if _met(value, getattr(target, name))]
    return reached[-1] if reached else f"{value / target.must:.0%} of must"


def _met(value: float, limit: float | None) -> bool:
    return limit is not None and value >= limit
