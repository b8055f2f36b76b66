"""Subsets of record sets: chosen samples, held-out acquisitions, nested fractions of the labelled samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Integer

from sarwmix_jax.data.records import Contract
from sarwmix_jax.errors import UserError


class Subset:
    """Some samples of a source of records or pairs, by number; it is a source too."""

    def __init__(self, source: Any, numbers: Int[np.ndarray, " chosen"]) -> None:
        """Choose the samples with these numbers, in this order."""
        self.source, self.numbers = source, np.asarray(numbers)

    @property
    def contract(self) -> Contract:
        """The contract of the records."""
        contract: Contract = self.source.contract
        return contract

    @property
    def records(self) -> Any:
        """The records of the whole source."""
        return self.source.records

    @property
    def folder(self) -> Path:
        """Folder of the record set."""
        folder: Path = self.source.folder
        return folder

    @property
    def split(self) -> str:
        """Split to which the samples belong."""
        return str(self.source.split)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.source[int(self.numbers[index])])

    def name_of(self, index: int) -> str:
        """Name of sample `index`."""
        return str(self.source.name_of(int(self.numbers[index])))

    def cluster_of(self, index: int) -> str:
        """Acquisition or sequence of sample `index`."""
        return str(self.source.cluster_of(int(self.numbers[index])))

    def read_batch(
        self, indices: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Arrays of several samples, as from the source."""
        return dict(self.source.read_batch(self.numbers[np.asarray(indices)], columns))


def hold_out(source: Any, share: float, seed: int) -> tuple[Subset, Subset]:
    """Samples to train on and held-out samples: whole acquisitions (or sequences), so that none is in both.

    Args:
        source: Records or pairs.
        share: Share of the acquisitions to hold out; at least one is held out, and at least one is not.
        seed: From 0 to 2^32 - 1.

    Raises:
        UserError: All samples belong to one acquisition.
    """
    clusters = np.array([source.cluster_of(number) for number in range(len(source))])
    names = np.unique(clusters)
    if len(names) < 2:
        raise UserError(
            f"{source.folder}, split {source.split}: all samples belong to {names[0]}, none can be held out; "
            "name a split with --config.validation.split"
        )
    words = np.random.Philox(np.random.SeedSequence(seed)).random_raw(len(names))
    count = min(max(1, round(share * len(names))), len(names) - 1)
    held = np.isin(clusters, names[np.argsort(words, kind="stable")[:count]])
    return Subset(source, np.flatnonzero(~held)), Subset(source, np.flatnonzero(held))


def label_fraction(
    labels: Integer[np.ndarray, " sample"] | Integer[np.ndarray, "sample class"], fraction: float, seed: int
) -> Int[np.ndarray, " chosen"]:
    """Numbers of the samples in a subset, ascending: nested, stratified, and the same on every machine.

    The published label-fraction study does not state how its subsets were drawn; these are drawn as follows. Samples
    are sorted by their rarest class, then by the next rarest one, and so on, with ties in random order, so that similar
    samples are next to each other. Position p of this list, with random bits flipped, gets the number whose bits are
    those of p in reverse (van der Corput 1935); the subset consists of the samples with the smallest numbers. So 1/8 of
    the samples is every eighth one of the sorted list from a random start (systematic sampling with implicit
    stratification), and every smaller fraction is a subset of it.

    Args:
        labels: Class numbers (sample), or 1 where the sample has the class (sample, class).
        fraction: Share of the samples, above 0 and at most 1; their number is rounded.
        seed: From 0 to 2^32 - 1. For the same seed, a smaller fraction is a subset of a larger one.

    Raises:
        UserError: The fraction or the seed is out of range, or no samples are left.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"label fraction {fraction}: it must be above 0 and at most 1")
    if not 0 <= seed < 2**32:
        raise UserError(f"seed {seed}: it must be from 0 to {2**32 - 1}")
    count = round(fraction * len(labels))
    if count == 0:
        raise UserError(f"label fraction {fraction} of {len(labels)} samples leaves none: use a larger one")
    return np.sort(_order(labels, seed)[:count])


def _order(labels: np.ndarray, seed: int) -> Int[np.ndarray, " sample"]:
    """All samples in an order of which every beginning is a stratified subset."""
    # NumPy guarantees the values of raw words alone over its versions.
    words = np.random.Philox(np.random.SeedSequence(seed)).random_raw(len(labels) + 1)
    keys = [words[1:]]  # the last key sorts first
    if labels.ndim == 2:
        rarest_first = np.argsort(labels.sum(axis=0), kind="stable")
        keys += [labels[:, k] == 0 for k in rarest_first[::-1]]
    else:
        keys.append(labels)
    sorted_samples = np.lexsort(keys)
    bits = max(1, (len(labels) - 1).bit_length())
    positions = np.arange(len(labels), dtype=np.uint64) ^ (words[0] & np.uint64(2**bits - 1))
    reversed_bits = np.zeros_like(positions)
    for _ in range(bits):
        reversed_bits = (reversed_bits << np.uint64(1)) | (positions & np.uint64(1))
        positions >>= np.uint64(1)
    return sorted_samples[np.argsort(reversed_bits)]
