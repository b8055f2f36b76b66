"""The checkpoints released by the authors of SAR-W-MixMAE: their identity, and settings that no tensor reveals."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Released:
    """One released file.

    `classes` is None for pretraining, `tiling` is set for flood detection only. `norm_pix` (targets standardised per
    cell) and `mix_group` (images that mix with each other, those of one device) are set for pretraining only.
    """

    file: str
    sha256: str
    about: str
    kind: str
    statistics: str
    size: str = "base"
    classes: int | None = None
    tiling: str | None = None
    norm_pix: bool | None = None
    mix_group: int | None = None


KINDS = ("pretraining", "classifier", "flood")
"""What a checkpoint's parameters are for."""

TILINGS = ("released", "two_band")
"""How flood pairs are cut into tiles: as in the released code, or with VH and VV of one place together."""

RELEASED = (
    Released(
        "benv1_pretrain_checkpoint_64.pth",
        "b4f385f96a1eef96c8b32768b57cee79060fe3d920c7273e2c70e43cc1c90700",
        "pretrained on BigEarthNet v1, 64 epochs",
        "pretraining",
        "bigearthnet_v1",
        norm_pix=True,
        mix_group=256,
    ),
    Released(
        "benv1_finetune_checkpoint_best.pth",
        "3778df30224903644d772d151a086d4a1bb006ab61c55ac6534ecb00fe3ae083",
        "finetuned on BigEarthNet v1, 19 classes",
        "classifier",
        "bigearthnet_v1",
        classes=19,
    ),
    Released(
        "benv2_pretrain_checkpoint_64.pth",
        "13ab3855a2faee9dc1ca0fb50ba483cc4e0d735b9fc8d1f03e75764c356d0b93",
        "pretrained on BigEarthNet v2, 64 epochs",
        "pretraining",
        "bigearthnet_v2",
        norm_pix=True,
        mix_group=256,
    ),
    Released(
        "benv2_finetune_checkpoint_best.pth",
        "9592399dcc5f34f608a4b558f897a919d4dd4feb06fc975c108e8f4191689c18",
        "finetuned on BigEarthNet v2, 19 classes",
        "classifier",
        "bigearthnet_v2",
        classes=19,
    ),
    Released(
        "sen12_finetune_checkpoint_best.pth",
        "33d06401a433191233322a24c551145e53622b6702b4fa9d6d0178cd2392c541",
        "finetuned on SEN12-FLOOD from the BigEarthNet v1 pretraining",
        "flood",
        "bigearthnet_v1",
        classes=2,
        tiling="released",
    ),
)
"""Source: the README of the published system lists a drive link per file."""
