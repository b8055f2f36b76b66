"""Polarisation bands: their order everywhere in this project, and their published statistics."""

from dataclasses import dataclass

BANDS = ("VH", "VV")
"""Band order of every record, array and checkpoint (torchgeo and others use VV, VH)."""


@dataclass(frozen=True)
class BandStatistics:
    """Mean and standard deviation per band of `BANDS`, in dB."""

    mean_db: tuple[float, ...]
    std_db: tuple[float, ...]


STATISTICS = {
    "bigearthnet_v2": BandStatistics(mean_db=(-19.1966, -12.5144), std_db=(5.4501, 5.0019)),
    # The published system uses these for SEN12-FLOOD too.
    "bigearthnet_v1": BandStatistics(mean_db=(-19.2309, -12.5951), std_db=(3.1672, 2.9644)),
}
"""Band statistics by data set, as used by the released runs."""
