"""The peers' input: raw records to standardised images and weights, on the device and inside the measured step."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sarwmix_jax.facts.bands import BANDS, STATISTICS, BandStatistics

RECORD_SIDE = 120
"""Side of a BigEarthNet patch in pixels."""


class Preparation(nn.Module):
    """Resizes, flips and standardises; the same arithmetic as this project's own compiled step."""

    def __init__(self, side: int, statistics: BandStatistics = STATISTICS["bigearthnet_v2"]):
        super().__init__()
        self.side = side
        self.register_buffer("mean", torch.tensor(statistics.mean_db).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(statistics.std_db).reshape(-1, 1, 1))

    def forward(self, records: Tensor, flips: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Standardised images and the same in dB, float32 (batch, band, side, side).

        Args:
            records: Backscatter in dB (batch, band, height, width), any float type.
            flips: Booleans (2, batch): mirrored left-right, mirrored top-bottom; without them nothing is mirrored.
        """
        db = resized(records, self.side)
        if flips is not None:
            horizontal, vertical = flips[..., None, None, None]
            db = torch.where(horizontal, db.flip(-1), db)
            db = torch.where(vertical, db.flip(-2), db)
        return (db - self.mean) / self.std, db


def resized(records: Tensor, side: int) -> Tensor:
    """Bilinear, half-pixel centres, antialiased when shrinking; float32."""
    images = records.float()
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=images.shape[-1] > side)


def draw_records(batch: int, seed: int, statistics: BandStatistics = STATISTICS["bigearthnet_v2"]) -> Tensor:
    """Records like real ones in mean and spread: float16 dB (batch, band, 120, 120)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((batch, len(BANDS), RECORD_SIDE, RECORD_SIDE), generator=generator)
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (statistics.mean_db, statistics.std_db))
    return (mean + std * noise).half()
