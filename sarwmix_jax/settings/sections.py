"""Every setting of a run, once: its name, type, default, range and meaning.

The same objects go from the command line down to the compiled step. `None` means: not set. `config` checks the ranges.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeVar

from sarwmix_jax.settings.model import ModelSettings, Section

T = TypeVar("T")
Positive = Annotated[T, "positive"]
NotNegative = Annotated[T, "not negative"]
BelowOne = Annotated[T, "below one"]
Probability = Annotated[T, "probability"]
Share = Annotated[T, "share"]
"""Ranges; `config` knows what they mean."""

Tiling = Literal["released", "two_band"]
PatchOp = Literal["avg", "max"]


@dataclass(frozen=True)
class MaskSettings:
    """How many of the 32-pixel cells come from the partner image: floor(cells * (ratio + u))."""

    ratio: float = 0.5
    range_mask_ratio: NotNegative[float] = 0.0  # u is uniform in [0, range_mask_ratio]


@dataclass(frozen=True)
class WeightSettings(Section):
    """Backscatter weights of the squared error.

    Raises:
        UserError: If a value is none of the choices.
    """

    section: ClassVar[str] = "weighting."

    # per_channel: each band by its own power; shared_power: all by the mean of their powers (paper, released code);
    # shared_weight: all by the mean of their weights (published README); off: 1
    mode: Literal["per_channel", "shared_power", "shared_weight", "off"] = "per_channel"
    # power is 10^(x/10) of the backscatter in dB (README, paper), or of the standardised values (released code)
    power_of: Literal["backscatter", "standardised"] = "backscatter"
    granularity: Literal["pixel", "token"] = "pixel"  # token: the mean over each 32-pixel cell, per band (README)
    exp_scale: Positive[float] = 1.0  # s in exp(s * (1 - normalised power))


@dataclass(frozen=True)
class LossSettings:
    """What the squared error compares."""

    norm_pix: bool = True  # target standardised per cell


@dataclass(frozen=True)
class DataSettings:
    """Where images come from, and how they are read."""

    records: tuple[str, ...] = ()  # folder of a record set, or of several to mix
    mix_weights: tuple[float, ...] | None = None  # shares of several record sets in every batch
    split: str = "train"  # such as train+validation or train[:12.5%]
    statistics: str = "bigearthnet_v2"  # published band statistics by name, or "records": those of the record set
    quantity: str | None = None  # sigma0, gamma0 or beta0: refuse records of another; unset: take any
    nodata_aware: bool = False  # leave pixels that the records mark invalid out of weights, targets and loss
    threads: Positive[int] = 2  # reading threads
    workers: NotNegative[int] = 0  # reading processes; 0: threads of this process
    prefetch: Positive[int] = 2  # batches kept ready
    resident: bool = False  # hold the records of `split` in device memory, spread over the devices: read once a start


@dataclass(frozen=True)
class ValidationSettings:
    """Held-out records: which, and how often they are evaluated."""

    split: str | None = None  # unset: none; if_any: "validation" where every record set has it
    every_epochs: Positive[float] = 1.0


@dataclass(frozen=True)
class AugmentSettings:
    """Random flips."""

    horizontal_flip: Probability[float] = 0.5
    vertical_flip: Probability[float] = 0.5


@dataclass(frozen=True)
class BatchSettings:
    """How the global batch is cut."""

    global_batch: Positive[int] = 2048  # images of one optimiser step, all devices and accumulation included
    micro_batch: Positive[int] | None = None  # images of one device at a time; unset: no accumulation


@dataclass(frozen=True)
class MixedBatchSettings(Section, BatchSettings):
    """How the global batch of pretraining is cut."""

    section: ClassVar[str] = "batch."

    mix_group: Positive[int] | None = None  # images that share a mask and mix; unset: the micro-batch at first start
    odd_group: Literal["refuse", "faithful"] = "refuse"  # faithful: its middle image is its own partner, as published


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and its schedule."""

    base_lr: Positive[float] = 1.5e-4  # for a global batch of 256; scaled with the batch
    min_lr: NotNegative[float] = 0.0  # absolute, at the end of the schedule
    beta1: BelowOne[float] = 0.9
    beta2: BelowOne[float] = 0.95
    eps: Positive[float] = 1e-8
    weight_decay: NotNegative[float] = 0.05
    clip_grad: Positive[float] | None = None  # largest global gradient norm; unset: no clipping
    warmup_epochs: NotNegative[float] = 40.0
    schedule_epochs: Positive[float] = 1024.0  # where the cosine ends, warm-up included
    stop_after_epochs: Positive[float] = 64.0  # where the run ends, whatever the schedule's length
    stop_after_steps: Positive[int] | None = None  # or after so many steps, when that is earlier


@dataclass(frozen=True)
class FinetuningOptimizerSettings(OptimizerSettings):
    """AdamW with layer-wise learning rates; the defaults are the published finetuning recipe."""

    base_lr: Positive[float] = 5e-4
    min_lr: NotNegative[float] = 1e-6  # of the fastest layer, times each layer's factor
    beta2: BelowOne[float] = 0.999
    warmup_epochs: NotNegative[float] = 5.0
    schedule_epochs: Positive[float] = 50.0
    stop_after_epochs: Positive[float] = 50.0
    layer_decay: Share[float] = 0.7  # factor of the learning rate from each layer to the one below; 1: none


@dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are written and which stay."""

    every_epochs: Positive[float] = 1.0
    keep: Positive[int] = 2  # the last so many
    powers_of_two: bool = True  # also keep those after 1, 2, 4, 8, ... epochs
    at_epochs: tuple[float, ...] = ()  # also keep those after these epochs
    best: bool = True  # also keep the best on the validation records


@dataclass(frozen=True)
class LogSettings:
    """How often is written down what."""

    every_steps: Positive[int] = 20


@dataclass(frozen=True)
class ProbeSettings(Section):
    """Labelled records on which a pretraining run shows the quality of its features as it goes.

    Raises:
        UserError: If a value is none of the choices.
    """

    section: ClassVar[str] = "probe."

    records: str | None = None  # folder of a record set with labels; unset: no probe
    task: Literal["multilabel", "single_label"] = "multilabel"  # single_label: classes exclude each other
    train: str = "train"  # split of the neighbours; a small part will do, such as train[:10%]
    split: str = "validation"  # split that is scored
    every_epochs: Positive[float] = 1.0


@dataclass(frozen=True)
class RunSettings:
    """What the runs of all tasks have in common."""

    seed: NotNegative[int] = 0
    init_from: str | None = None  # start from the parameters of this checkpoint (a new run, step 0)
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    validation: ValidationSettings = ValidationSettings()
    augment: AugmentSettings = AugmentSettings()
    batch: BatchSettings = BatchSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    log: LogSettings = LogSettings()


@dataclass(frozen=True)
class PretrainingSettings(RunSettings):
    """All settings of a pretraining run; the defaults are the published recipe."""

    batch: MixedBatchSettings = MixedBatchSettings()
    mask: MaskSettings = MaskSettings()
    weighting: WeightSettings = WeightSettings()
    loss: LossSettings = LossSettings()
    probe: ProbeSettings = ProbeSettings()


@dataclass(frozen=True)
class LabelledDataSettings(DataSettings):
    """Where labelled images come from, and how many of them are used."""

    label_fraction: Share[float] = 1.0  # share of the training samples; a smaller one is part of a larger one
    fraction_seed: NotNegative[int] = 0  # which samples that share is


@dataclass(frozen=True)
class SelectionSettings(ValidationSettings):
    """Held-out samples, on which the best checkpoints are selected."""

    split: str | None = "validation"  # as above; held_out: acquisitions or sequences taken out of data.split
    share: Share[float] = 0.1  # of the acquisitions or sequences, for held_out
    patience: Positive[int] | None = None  # validations without a better one after which the run ends; unset: never


@dataclass(frozen=True)
class HeadSettings(Section):
    """What is trained on top of the encoder.

    Raises:
        UserError: If a value is none of the choices.
    """

    section: ClassVar[str] = "head."

    frozen_encoder: bool = False  # train the linear head alone, on features without drop path
    class_weights: Literal["none", "balanced"] = "none"  # balanced: rare classes weigh more, by their training counts


@dataclass(frozen=True)
class FloodSettings(Section):
    """How a pair of dates becomes one answer.

    Raises:
        UserError: If a value is none of the choices.
    """

    section: ClassVar[str] = "flood."

    tiling: Tiling = "two_band"  # released: tiles as the released code cuts them, needed with its flood checkpoint
    patch_op: PatchOp = "avg"  # how the tiles' feature differences are pooled


@dataclass(frozen=True)
class FinetuningSettings(Section, RunSettings):
    """All settings of a finetuning run; the defaults are the published recipe for BigEarthNet."""

    section: ClassVar[str] = ""

    task: Literal["multilabel", "single_label", "flood"] = "multilabel"
    model: ModelSettings = ModelSettings(drop_path=0.1)
    data: LabelledDataSettings = LabelledDataSettings()
    validation: SelectionSettings = SelectionSettings()
    head: HeadSettings = HeadSettings()
    batch: BatchSettings = BatchSettings(global_batch=1024)
    optimizer: FinetuningOptimizerSettings = FinetuningOptimizerSettings()
    flood: FloodSettings = FloodSettings()
