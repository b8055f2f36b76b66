"""Published scores, for comparison with measured ones."""

from typing import NamedTuple


class PublishedScores(NamedTuple):
    """Scores of one published model on a data set, by name as in `metrics.scores`, and its share of the labels."""

    dataset: str
    model: str
    scores: dict[str, float]
    note: str
    fraction: float = 1.0


_V1_NOTE = (
    "19 classes, Sentinel-1 alone, weighted-rule checkpoint; the published logs report validation scores at the best "
    "epoch, so these may be of the validation split"
)
_V2_NOTE = "Sentinel-1 alone, test split, public model card"


def _v1(
    model: str, fraction: float, ap_macro: float, ap_micro: float, f1_macro: float, f1_micro: float
) -> PublishedScores:
    scores = {"ap_macro": ap_macro, "ap_micro": ap_micro, "f1_macro": f1_macro, "f1_micro": f1_micro}
    return PublishedScores("bigearthnet_v1", model, scores, _V1_NOTE, fraction)


def _v2(model: str, ap_macro: float, ap_micro: float, f1_macro: float, f1_micro: float) -> PublishedScores:
    scores = {"ap_macro": ap_macro, "ap_micro": ap_micro, "f1_macro": f1_macro, "f1_micro": f1_micro}
    return PublishedScores("bigearthnet_v2", model, scores, _V2_NOTE)


PUBLISHED = (
    _v1("SAR-W-MixMAE, pretrained, 100 % of the labels", 1.0, 0.7141, 0.8391, 0.6443, 0.7384),
    _v1("SAR-W-MixMAE, pretrained, 50 %", 0.5, 0.6928, 0.8245, 0.6293, 0.7261),
    _v1("SAR-W-MixMAE, pretrained, 25 %", 0.25, 0.6616, 0.8139, 0.6016, 0.7190),
    _v1("SAR-W-MixMAE, pretrained, 12.5 %", 0.125, 0.6453, 0.8046, 0.5894, 0.7076),
    _v1("random initialisation, 100 % of the labels", 1.0, 0.6107, 0.7713, 0.4936, 0.6750),
    _v1("random initialisation, 50 %", 0.5, 0.5781, 0.7339, 0.4713, 0.6509),
    _v1("random initialisation, 25 %", 0.25, 0.5545, 0.7139, 0.4295, 0.6233),
    _v1("random initialisation, 12.5 %", 0.125, 0.5268, 0.6827, 0.4058, 0.5977),
    _v2("ResNet-50", 0.6284, 0.8007, 0.5761, 0.7020),
    _v2("MobileViT-S", 0.6312, 0.8118, 0.5657, 0.7056),
)
"""Source: arXiv 2503.01181 and its repository (v1), model cards of BigEarthNet v2."""
