"""The table of names and layouts, published <-> this package, used in both directions.

Shapes are the published ones, in symbols: C width of the stage, H its heads, T rows of a bias table, I bands, p patch
side, N tokens of the grid, n cells of an image, F features, D decoder width, V values of a cell, K classes.
Rows are in the published definition order, which is also that of the optimiser state.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from einops import rearrange

Arrays = Mapping[str, np.ndarray]


class Entry(NamedTuple):
    """One tensor of a model: published name, name here, layout, published shape, and stage (None outside the stages).

    In the table below an entry represents all its repetitions: `{s}` and `{b}` are the stage and the block.
    """

    published: str
    name: str
    layout: str
    shape: str
    stage: int | None = None


class Layout(NamedTuple):
    """How an array is rearranged in both directions; the results are views where possible."""

    from_published: Callable[[np.ndarray], np.ndarray]
    to_published: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


LAYOUTS = {
    "same": Layout(lambda a: a, lambda a, shape: a),
    # (out, in) <-> (in, out)
    "linear": Layout(lambda a: a.T, lambda a, shape: a.T),
    # (out, band, row, column) <-> (row column band, out)
    "convolution": Layout(
        lambda a: rearrange(a, "out band row column -> (row column band) out"),
        lambda a, shape: rearrange(
            a, "(row column band) out -> out band row column", band=shape[1], row=shape[2], column=shape[3]
        ),
    ),
    # leading axes of length 1 <-> none
    "batch_of_one": Layout(lambda a: a[0], lambda a, shape: a[None]),
    "one_token": Layout(lambda a: a[0, 0], lambda a, shape: a[None, None]),
}

_MIXMAE_TOP = (
    Entry("mask_token", "decoder/mask_token", "one_token", "1 1 D"),
    Entry("absolute_pos_embed", "encoder/position", "batch_of_one", "1 N C"),
    Entry("decoder_pos_embed", "decoder/position", "batch_of_one", "1 n D"),
)
_PATCH_EMBED = (
    Entry("patch_embed.proj.weight", "encoder/patch_embed/proj/kernel", "convolution", "C I p p"),
    Entry("patch_embed.proj.bias", "encoder/patch_embed/proj/bias", "same", "C"),
    Entry("patch_embed.norm.weight", "encoder/patch_embed/norm/scale", "same", "C"),
    Entry("patch_embed.norm.bias", "encoder/patch_embed/norm/bias", "same", "C"),
)
_FROM, _TO = "layers.{s}.blocks.{b}.", "encoder/stages/{s}/blocks/{b}/"
_BLOCK = (
    Entry(_FROM + "norm1.weight", _TO + "norm1/scale", "same", "C"),
    Entry(_FROM + "norm1.bias", _TO + "norm1/bias", "same", "C"),
    Entry(_FROM + "attn.relative_position_bias_table", _TO + "attention/bias_table", "same", "T H"),
    Entry(_FROM + "attn.qkv.weight", _TO + "attention/qkv/kernel", "linear", "3C C"),
    Entry(_FROM + "attn.qkv.bias", _TO + "attention/qkv/bias", "same", "3C"),
    Entry(_FROM + "attn.proj.weight", _TO + "attention/proj/kernel", "linear", "C C"),
    Entry(_FROM + "attn.proj.bias", _TO + "attention/proj/bias", "same", "C"),
    Entry(_FROM + "norm2.weight", _TO + "norm2/scale", "same", "C"),
    Entry(_FROM + "norm2.bias", _TO + "norm2/bias", "same", "C"),
    Entry(_FROM + "mlp.fc1.weight", _TO + "mlp/fc1/kernel", "linear", "4C C"),
    Entry(_FROM + "mlp.fc1.bias", _TO + "mlp/fc1/bias", "same", "4C"),
    Entry(_FROM + "mlp.fc2.weight", _TO + "mlp/fc2/kernel", "linear", "C 4C"),
    Entry(_FROM + "mlp.fc2.bias", _TO + "mlp/fc2/bias", "same", "C"),
)
_MERGE = (
    Entry("layers.{s}.downsample.reduction.weight", "encoder/stages/{s}/merge/reduction/kernel", "linear", "2C 4C"),
    Entry("layers.{s}.downsample.norm.weight", "encoder/stages/{s}/merge/norm/scale", "same", "4C"),
    Entry("layers.{s}.downsample.norm.bias", "encoder/stages/{s}/merge/norm/bias", "same", "4C"),
)
_NORM = (
    Entry("norm.weight", "encoder/norm/scale", "same", "F"),
    Entry("norm.bias", "encoder/norm/bias", "same", "F"),
)
_DECODER_EMBED = (
    Entry("decoder_embed.weight", "decoder/embed/kernel", "linear", "D F"),
    Entry("decoder_embed.bias", "decoder/embed/bias", "same", "D"),
)
# A decoder block is an encoder block without the bias table, of width D.
_DECODER_BLOCK = tuple(
    Entry(
        row.published.replace(_FROM, "decoder_blocks.{b}."),
        row.name.replace(_TO, "decoder/blocks/{b}/"),
        row.layout,
        row.shape.replace("C", "D"),
    )
    for row in _BLOCK
    if row.shape != "T H"
)
_DECODER_END = (
    Entry("decoder_norm.weight", "decoder/norm/scale", "same", "D"),
    Entry("decoder_norm.bias", "decoder/norm/bias", "same", "D"),
    Entry("decoder_pred.weight", "decoder/predict/kernel", "linear", "V D"),
    Entry("decoder_pred.bias", "decoder/predict/bias", "same", "V"),
)
_HEAD = (
    Entry("head.weight", "head/kernel", "linear", "K F"),
    Entry("head.bias", "head/bias", "same", "K"),
)

INDEX_BUFFER = re.compile(r"layers\.\d+\.blocks\.\d+\.attn\.relative_position_index")
"""Published buffers that follow from the window side: computed again, never converted."""

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")

FIXED = frozenset({"encoder/position", "decoder/position"})
"""Tensors that are not trained."""


@dataclass(frozen=True)
class Extent:
    """How often the table's rows repeat: blocks per stage, and decoder blocks (None for a classifier, with a head)."""

    depths: tuple[int, ...]
    decoder_depth: int | None


def entries(extent: Extent) -> Iterator[Entry]:
    """Every tensor of a model of this extent, in published definition order (without index buffers)."""
    pretraining = extent.decoder_depth is not None
    yield from _expand((_MIXMAE_TOP if pretraining else _MIXMAE_TOP[1:2]) + _PATCH_EMBED)
    for stage, depth in enumerate(extent.depths):
        for block in range(depth):
            yield from _expand(_BLOCK, stage, block)
        if stage < len(extent.depths) - 1:
            yield from _expand(_MERGE, stage)
    yield from _expand(_NORM + (_DECODER_EMBED if pretraining else _HEAD))
    for block in range(extent.decoder_depth or 0):
        yield from _expand(_DECODER_BLOCK, None, block)
    yield from _expand(_DECODER_END if pretraining else ())


def _expand(rows: tuple[Entry, ...], stage: int | None = None, block: int | None = None) -> Iterator[Entry]:
    for row in rows:
        published, name = row.published.format(s=stage, b=block), row.name.format(s=stage, b=block)
        yield row._replace(published=published, name=name, stage=stage)


def from_published(state_dict: Arrays, extent: Extent | None = None) -> dict[str, np.ndarray]:
    """Converts published tensors to the names and layouts of this package, as views; index buffers are dropped.

    Args:
        state_dict: Complete tensors with published names (see `without_prefix`) and layouts.
        extent: The model's extent; by default it is derived from the names.

    Raises:
        KeyError: A tensor is missing; use `recognition.recognise` first for a message to users.
    """
    return {
        entry.name: LAYOUTS[entry.layout].from_published(state_dict[entry.published])
        for entry in entries(extent or extent_of(state_dict))
    }


def to_published(tensors: Arrays, entry: Entry, shape: tuple[int, ...]) -> np.ndarray:
    """One tensor in the published layout, as a view."""
    return LAYOUTS[entry.layout].to_published(tensors[entry.name], shape)


def extent_of(state_dict: Arrays) -> Extent:
    """Extent of a model by its published names; blocks are counted, so a gap shows up as a missing tensor."""
    blocks: set[tuple[int, int]] = set()
    decoder: set[int] = set()
    for name in state_dict:
        if match := re.match(r"layers\.([0-3])\.blocks\.(\d{1,3})\.", name, re.ASCII):
            blocks.add((int(match[1]), int(match[2])))
        elif match := re.match(r"decoder_blocks\.(\d{1,3})\.", name, re.ASCII):
            decoder.add(int(match[1]))
    depths = tuple(sum(1 for stage, _ in blocks if stage == s) for s in range(4))
    pretraining = any(name.startswith("decoder_") or name == "mask_token" for name in state_dict)
    return Extent(depths, len(decoder) if pretraining else None)


def without_prefix(state_dict: Arrays) -> dict[str, np.ndarray]:
    """The state dict without the prefixes of wrappers: `module.` (distributed), `_orig_mod.` (compiled)."""
    bare = {name: _WRAPPERS.sub("", name) for name in state_dict}
    prefixes = {name.removesuffix(rest) for name, rest in bare.items()}
    return {bare[name] if len(prefixes) == 1 else name: array for name, array in state_dict.items()}


def window_side(table_rows: int) -> int | None:
    """Window side of a relative position bias table with this many rows, or None if no window has that many."""
    side = math.isqrt(table_rows)
    return (side + 1) // 2 if side * side == table_rows and side % 2 else None


def relative_position_index(window: int) -> np.ndarray:
    """Row of the bias table for every (query, key) pair of a window's tokens, row-major; int64."""
    row, column = np.divmod(np.arange(window * window), window)
    d_row, d_column = row[:, None] - row[None, :], column[:, None] - column[None, :]
    return ((d_row + window - 1) * (2 * window - 1) + d_column + window - 1).astype(np.int64)
