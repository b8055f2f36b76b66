"""Every setting of a run, once: its name, type, default, range and meaning; `sarwmix settings` lists them.

The same objects are used from the command line to the compiled step. `None` means: not set. `config` checks the ranges.
"""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

from sarwmix_jax.settings.declarations import BelowOne, NotNegative, Positive, Probability, Share, setting
from sarwmix_jax.settings.model import ModelSettings, Section

Tiling = Literal["released", "two_band"]
PatchOp = Literal["avg", "max"]
TRACKERS = ("tensorboard", "wandb")


@dataclass(frozen=True)
class MaskSettings:
    """Number of the 32-pixel cells that come from the partner image: floor(cells * (ratio + u))."""

    ratio: Share[float] = setting(0.5, "share of the cells of 32 x 32 px that come from the partner image")
    range_mask_ratio: NotNegative[float] = setting(
        0.0, "largest random addition to the share, drawn for each mix group"
    )


@dataclass(frozen=True)
class WeightSettings(Section):
    """Backscatter weights of the squared error."""

    section: ClassVar[str] = "weighting."

    mode: Literal["per_channel", "shared_power", "shared_weight", "off"] = setting(
        "per_channel",
        "per_channel: each band by its own power; shared_power: all by the mean of their powers (paper, released "
        "code); shared_weight: all by the mean of their weights (published README); off: weight 1",
    )
    power_of: Literal["backscatter", "standardised"] = setting(
        "backscatter",
        "values x whose power is 10^(x/10): backscatter in dB (paper, README), or standardised (released code)",
    )
    granularity: Literal["pixel", "token"] = setting(
        "pixel",
        "token: mean weight of each cell of 32 x 32 px, per band (README)",
    )
    exp_scale: Positive[float] = setting(1.0, "s in the weight exp(s * (1 - normalised power))")


@dataclass(frozen=True)
class LossSettings:
    """What the squared error compares."""

    norm_pix: bool = setting(True, "standardise the target of each cell by its own mean and standard deviation")


@dataclass(frozen=True)
class DataSettings:
    """Where images come from, and how they are read."""

    records: tuple[str, ...] = setting((), "folder of a record set; repeat the flag for several, which are mixed")
    mix_weights: tuple[float, ...] | None = setting(None, "shares of several record sets in every batch")
    split: str = setting("train", "split to train on, such as train+validation or train[:12.5%]")
    statistics: str = setting(
        "bigearthnet_v2",
        "mean and standard deviation of each band: bigearthnet_v1, bigearthnet_v2, or records: the record set's own",
    )
    quantity: str | None = setting(None, "sigma0, gamma0 or beta0: refuse records of another quantity; unset: take any")
    nodata_aware: bool = setting(False, "leave pixels marked as invalid out of weights, targets and loss")
    threads: Positive[int] = setting(2, "threads that read records")
    workers: NotNegative[int] = setting(0, "processes that read records; 0: threads of the run itself")
    prefetch: Positive[int] = setting(2, "batches that are kept ready")
    resident: bool = setting(False, "hold the training records in the memory of the devices, shared among them")


@dataclass(frozen=True)
class ValidationSettings:
    """Held-out records: which, and how often they are evaluated."""

    split: str | None = setting(
        None,
        "split of held-out records; if_any: `validation` where every record set has it; held_out (finetuning alone): "
        "acquisitions or sequences taken out of data.split; unset: no validation",
    )
    every_epochs: Positive[float] = setting(1.0, "epochs between two evaluations on the held-out records")


@dataclass(frozen=True)
class AugmentSettings:
    """Random flips."""

    horizontal_flip: Probability[float] = setting(0.5, "probability of a left-right flip")
    vertical_flip: Probability[float] = setting(0.5, "probability of an upside-down flip")


@dataclass(frozen=True)
class BatchSettings(Section):
    """How the global batch is divided."""

    section: ClassVar[str] = "batch."

    global_batch: Positive[int] = setting(2048, "images of one optimiser step, all devices and accumulation included")
    micro_batch: Positive[int] | None = setting(None, "images per device at a time; unset: all, no accumulation")
    _: KW_ONLY
    reduce_dtype: Literal["float32", "bfloat16"] = setting("float32", "type of the gradients that devices exchange")


@dataclass(frozen=True)
class MixedBatchSettings(BatchSettings):
    """How the global batch of pretraining is divided."""

    mix_group: Positive[int] | None = setting(
        None,
        "images that share a mask and mix; unset: the first start's micro-batch",
    )
    odd_group: Literal["refuse", "faithful"] = setting(
        "refuse",
        "faithful: the middle image of an odd group mixes with itself, as published",
    )


@dataclass(frozen=True)
class OptimizerSettings(Section):
    """AdamW and its schedule."""

    section: ClassVar[str] = "optimizer."

    base_lr: Positive[float] = setting(1.5e-4, "largest learning rate for a global batch of 256; scaled with the batch")
    min_lr: NotNegative[float] = setting(
        0.0,
        "learning rate at the end, not scaled; in finetuning times the layer's factor",
    )
    beta1: BelowOne[float] = setting(0.9, "decay of the mean of gradients in AdamW")
    beta2: BelowOne[float] = setting(0.95, "decay of the mean of squared gradients in AdamW")
    eps: Positive[float] = setting(1e-8, "term in the denominator of AdamW")
    weight_decay: NotNegative[float] = setting(0.05, "weight decay of AdamW")
    clip_grad: Positive[float] | None = setting(None, "largest norm of the whole gradient; unset: no clipping")
    warmup_epochs: NotNegative[float] = setting(40.0, "epochs over which the learning rate rises from 0")
    schedule_epochs: Positive[float] = setting(1024.0, "epochs after which the cosine schedule ends, warm-up included")
    stop_after_epochs: Positive[float] = setting(64.0, "epochs at which the run ends, whatever the schedule's length")
    stop_after_steps: Positive[int] | None = setting(None, "steps after which the run ends, when that is earlier")
    on_divergence: Literal["stop", "skip", "roll_back"] = setting(
        "stop",
        "where loss or gradient are not finite: stop; skip: leave that update out; roll_back: the same, by repeating "
        "the steps since the last checkpoint, with the compiled program of stop",
    )
    shard_state: bool = setting(False, "divide AdamW's moments over the devices: less memory on each, more traffic")
    max_skipped: Positive[int] = setting(5, "skipped steps in a row, beyond which a diverging run stops all the same")


@dataclass(frozen=True)
class FinetuningOptimizerSettings(OptimizerSettings):
    """AdamW with layer-wise learning rates; the defaults are the published finetuning recipe."""

    base_lr: Positive[float] = 5e-4
    min_lr: NotNegative[float] = 1e-6
    beta2: BelowOne[float] = 0.999
    warmup_epochs: NotNegative[float] = 5.0
    schedule_epochs: Positive[float] = 50.0
    stop_after_epochs: Positive[float] = 50.0
    layer_decay: Share[float] = setting(0.7, "factor of the learning rate from each layer to the one below; 1: none")


@dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are written and which are kept."""

    every_epochs: Positive[float] = setting(1.0, "epochs between two checkpoints")
    keep: Positive[int] = setting(2, "number of the last checkpoints that are kept")
    powers_of_two: bool = setting(True, "also keep those after 1, 2, 4, 8, ... epochs")
    at_epochs: tuple[float, ...] = setting((), "also keep those after these epochs")
    best: bool = setting(True, "also keep the best ones by the validation records")


@dataclass(frozen=True)
class LogSettings:
    """How often values are logged, and where besides the JSON lines."""

    every_steps: Positive[int] = setting(20, "steps between two entries of the log")
    spike_window: NotNegative[int] = setting(100, "steps with whose losses each loss is compared; 0: none")
    spike_factor: Positive[float] = setting(
        6.0,
        "a loss so many standard deviations above the mean of the window is logged as a spike, with its records",
    )
    trackers: tuple[str, ...] = setting(
        (),
        "tensorboard, wandb (Weights & Biases): write numbers and pictures there, too; unset: JSON lines alone",
    )


@dataclass(frozen=True)
class ProbeSettings(Section):
    """Labelled records on which a pretraining run measures the quality of its features."""

    section: ClassVar[str] = "probe."

    records: str | None = setting(
        None,
        "folder of labelled records that score the features during the run; unset: no probe",
    )
    task: Literal["multilabel", "single_label"] = setting("multilabel", "single_label: classes exclude each other")
    train: str = setting("train", "split whose records are the neighbours; a small part will do, such as train[:10%]")
    split: str = setting("validation", "split that is scored")
    every_epochs: Positive[float] = setting(1.0, "epochs between two probes")


@dataclass(frozen=True)
class RunSettings:
    """Settings that the runs of all tasks have in common."""

    seed: NotNegative[int] = setting(0, "seed of all random numbers: order, masks, flips, parameters")
    init_from: str | None = setting(None, "checkpoint whose parameters a new run starts from; unset: random ones")
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

    label_fraction: Share[float] = setting(
        1.0,
        "share of the training samples that are used; smaller shares are subsets of larger ones",
    )
    fraction_seed: NotNegative[int] = setting(0, "seed that decides which samples are used")


@dataclass(frozen=True)
class SelectionSettings(ValidationSettings):
    """Held-out samples, on which the best checkpoints are selected."""

    split: str | None = "validation"
    share: Share[float] = setting(0.1, "share of the acquisitions or sequences that held_out takes")
    patience: Positive[int] | None = setting(None, "validations without improvement that end the run; unset: never")


@dataclass(frozen=True)
class HeadSettings(Section):
    """How the head on top of the encoder is trained."""

    section: ClassVar[str] = "head."

    frozen_encoder: bool = setting(False, "train the linear head alone, on features without drop path")
    class_weights: Literal["none", "balanced"] = setting(
        "none",
        "balanced: rare classes weigh more, by their training counts",
    )


@dataclass(frozen=True)
class FloodSettings(Section):
    """How a pair of dates is classified."""

    section: ClassVar[str] = "flood."

    tiling: Tiling = setting(
        "two_band",
        "two_band: tiles of VH and VV; released: as in the released code, needed with its flood checkpoint",
    )
    patch_op: PatchOp = setting("avg", "how the feature differences of the tiles are pooled")


@dataclass(frozen=True)
class FinetuningSettings(Section, RunSettings):
    """All settings of a finetuning run; the defaults are the published recipe for BigEarthNet."""

    section: ClassVar[str] = ""

    task: Literal["multilabel", "single_label", "flood"] = setting(
        "multilabel",
        "multilabel: any number of classes per image; single_label: exactly one; flood: pairs of dates",
    )
    model: ModelSettings = ModelSettings(drop_path=0.1)
    data: LabelledDataSettings = LabelledDataSettings()
    validation: SelectionSettings = SelectionSettings()
    head: HeadSettings = HeadSettings()
    batch: BatchSettings = BatchSettings(global_batch=1024)
    optimizer: FinetuningOptimizerSettings = FinetuningOptimizerSettings()
    flood: FloodSettings = FloodSettings()


TASKS = {"pretraining": PretrainingSettings, "finetuning": FinetuningSettings}
"""Settings of a run by its task."""
