"""The compiled steps of this project, to be timed as training calls them."""

import importlib.metadata
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from benchmarks import sample
from benchmarks.gpu_program.reader import read_program
from sarwmix_jax.models.state import abstract_model, converted_once, split_model
from sarwmix_jax.settings.model import ModelSettings
from sarwmix_jax.settings.sections import BatchSettings, FinetuningSettings, MixedBatchSettings, PretrainingSettings
from sarwmix_jax.tasks.gradients import TrainState, make_mesh, make_train_step, replicate, shard_batch
from sarwmix_jax.tasks.labelled import make_forward
from sarwmix_jax.tasks.multilabel import Multilabel
from sarwmix_jax.tasks.pretraining import Pretraining
from sarwmix_jax.training.kernels import with_kernels
from sarwmix_jax.training.optimizer import optimizer_of

RATE = np.float32(1e-5)
"""Small, as there is no warm-up; the computation is the same for any rate."""

DROP_PATH = 0.1
PREFETCH = 4
LIBRARIES = ("jax", "jaxlib", "flax", "optax")

Step = tuple[Any, Any]
"""The jitted step, and the state that is its first argument (training) or arguments (inference)."""


class JaxProgram:
    """One variant of one task; see `benchmarks.child.Work`."""

    trace = staticmethod(jax.profiler.trace)

    def __init__(self, spec: dict[str, Any]):
        self.training = spec["task"] in ("pretrain", "finetune")
        self.read_ahead = max(PREFETCH, spec["threads"]) + spec["workers"] * PREFETCH if spec["feed"] == "fed" else 0
        self.last: Any = None
        mesh = make_mesh([jax.devices(spec["device"])[0]])
        settings, chosen = with_chosen_kernels(spec["task"], model_settings(spec), spec["batch"], mesh)
        jitted, self.state = make_step(spec["task"], settings, spec["batch"], mesh)
        self.batches = batches(spec, mesh)
        started = time.perf_counter()
        self.compiled = jitted.lower(*self.arguments()).compile()
        seconds = time.perf_counter() - started
        versions = {"device": mesh.devices.item().device_kind}
        versions |= {name: importlib.metadata.version(name) for name in LIBRARIES}
        program = read_program(self.compiled.as_text())
        counts = {"kernels": program.count, "bytes": program.bytes}
        self.facts = {"compile_seconds": seconds, "versions": versions, "remarks": chosen, **counts}

    def arguments(self) -> tuple[Any, ...]:
        """Arguments of the next step."""
        batch = next(self.batches)
        return (self.state, batch, RATE) if self.training else (*self.state, batch)

    def step(self) -> None:
        """Starts one step; a training step donates its state."""
        self.last = self.compiled(*self.arguments())
        if self.training:
            self.state, self.last = self.last

    def wait(self) -> None:
        """Waits for the last step."""
        jax.block_until_ready(self.last)

    def numbers(self) -> dict[str, float]:
        """Loss and gradient norm, or the root mean square of the logits."""
        if isinstance(self.last, dict):
            return {name: float(self.last[name]) for name in ("loss", "grad_norm")}
        return {"logits": float(jnp.sqrt(jnp.mean(self.last.astype(jnp.float32) ** 2)))}

    def peak_bytes(self) -> int | None:
        """Largest use of device memory in bytes."""
        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def model_settings(spec: dict[str, Any]) -> ModelSettings:
    """The model of a size with the changes of a variant; on a CPU blocks run as a loop, as in a run."""
    unset = {"scan": spec["device"] == "cpu", "drop_path": DROP_PATH if spec["task"] == "finetune" else 0.0}
    return replace(sample.settings_of(spec["size"]), **unset | spec["changes"] | {"dtype": spec["dtype"]})


def with_chosen_kernels(task: str, settings: ModelSettings, batch: int, mesh: Mesh) -> tuple[ModelSettings, str]:
    """The settings with the kernels that a run with `kernel=auto` would choose on this device, and why these."""
    platform = mesh.devices.item().platform
    run, lines = with_kernels(make_task(task, settings.on(platform), batch).settings, platform)
    return run.model, "; ".join(lines)


def make_step(task: str, settings: ModelSettings, batch: int, mesh: Mesh) -> Step:
    """The step of a task, with a state drawn from seed 0."""
    trained = make_task(task, settings, batch)
    make, *arguments = trained.model

    def draw() -> Any:
        return split_model(make(*arguments, rngs=nnx.Rngs(0)))

    graphdef, (params, fixed) = abstract_model(*trained.model)[0], jax.jit(lambda: draw()[1:])()
    if task == "inference":
        return make_forward(trained, graphdef, mesh), replicate((converted_once(params, settings.dtype), fixed), mesh)
    optimizer = optimizer_of(trained.settings)
    state = TrainState(params, fixed, jax.jit(optimizer.init)(params), jnp.zeros((), jnp.int32))
    return make_train_step(trained, graphdef, optimizer, mesh), replicate(state, mesh)


def make_task(task: str, settings: ModelSettings, batch: int) -> Any:
    """The published recipe: both flips; for pretraining one half-masked mix group and per-channel weights."""
    if task == "pretrain":
        pretraining = PretrainingSettings(model=settings, batch=MixedBatchSettings(batch, batch, batch))
        return Pretraining(pretraining, sample.DATA)
    finetuning = FinetuningSettings(model=settings, batch=BatchSettings(batch, batch))
    return Multilabel(finetuning, sample.DATA, sample.CLASS_NAMES)


def batches(spec: dict[str, Any], mesh: Mesh) -> Iterator[dict[str, Any]]:
    """Endless device batches of one feed: ready on the device, read by the pipeline, or gathered on the device."""
    if spec["feed"] == "synthetic":
        host = sample.host_batches(sample.BATCHES, spec["batch"])
        yield from itertools.cycle([shard_batch(each, mesh) for each in host])
    from sarwmix_jax.data import pipeline, sources
    from sarwmix_jax.preparation import synthetic
    from sarwmix_jax.training import device_cache

    synthetic.write_synthetic_records(spec["folder"], train=spec["records"], side=sample.RECORD_SIDE)
    source = sources.open_records(spec["folder"], "train")
    if spec["feed"] == "resident":
        numbers = pipeline.training_order([len(source)], None, spec["batch"], 0)
        layout = device_cache.row_layout((source,), ("image",))
        rows = device_cache.load_rows((source,), layout, mesh, threads=spec["threads"])
        gather = device_cache.make_gather(layout, mesh)
        yield from (gather(rows, numbers(step).astype(np.int32)) for step in itertools.count())
    reading = {"threads": spec["threads"], "workers": spec["workers"], "prefetch": PREFETCH}
    for each in pipeline.TrainingInput(source, spec["batch"], 0, columns=("image",), **reading):
        yield shard_batch({"image": each["image"]}, mesh)
