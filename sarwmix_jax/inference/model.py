"""The small, stable interface to a checkpoint."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from sarwmix_jax import sar
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS, STATISTICS, BandStatistics
from sarwmix_jax.inference.build import Model, model_from
from sarwmix_jax.inference.checks import checked_db
from sarwmix_jax.inference.quiet import quiet
from sarwmix_jax.inference.reconstruction import Reconstruction, mirrored_chunks, restore_db
from sarwmix_jax.models.classifier import Classifier
from sarwmix_jax.models.flood import PatchOp, Tiling, cut_tiles, pooled_difference
from sarwmix_jax.models.layers import dense
from sarwmix_jax.models.mixmae import MixMAE, draw_mask
from sarwmix_jax.settings.model import CELL, ModelSettings, described_model
from sarwmix_jax.models.state import merge_model, split_model
from sarwmix_jax.models.tokens import vectors_to_image
from sarwmix_jax.training.checkpoints import load_parameters

BATCH = 32
"""Images that go through the model at a time; the last ones are padded up to a power of two."""

ImagesDb = Float[np.ndarray, "batch band height width"]


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A checkpoint ready for use. Images are (batch, band, height, width), VH and VV in dB, any number of them.

    Attributes:
        kind: "pretraining", "classifier" or "flood".
        settings: Shape and arithmetic of the model.
        statistics: What standardises the input.
        description: Everything that the checkpoint says of itself.
    """

    kind: str
    settings: ModelSettings
    statistics: BandStatistics
    description: dict[str, Any]
    _model: Model

    @property
    def bands(self) -> tuple[str, ...]:
        """Band order of the input."""
        return BANDS

    def encode(self, images_db: Any) -> Float[np.ndarray, "batch features"]:
        """Features: the mean over the encoder's output cells, 8*embed_dim values.

        Raises:
            UserError: Wrong shape or unit.
        """
        return self._batched("encode", checked_db(images_db, "images_db", self.settings.image_size))

    def classify(self, images_db: Any) -> Float[np.ndarray, "batch classes"]:
        """Logits; apply a sigmoid for probabilities.

        Raises:
            UserError: Wrong shape or unit, or not a classifier.
        """
        self._needs("classifier")
        return self._batched("classify", checked_db(images_db, "images_db", self.settings.image_size))

    def flood(
        self, before_db: Any, after_db: Any, patch_op: PatchOp = "avg", tiling: Tiling | None = None
    ) -> Float[np.ndarray, "batch classes"]:
        """Logits (no flood, flood) of pairs of dates; height and width may differ and be any from one tile up.

        Args:
            before_db: Earlier images.
            after_db: Later images of the same places.
            patch_op: How the tiles are pooled, "avg" or "max".
            tiling: "released" or "two_band"; the checkpoint's own unless given.

        Raises:
            UserError: Wrong shape or unit, unequal shapes, an unknown option, or no flood checkpoint.
        """
        self._needs("flood")
        before, after = checked_db(before_db, "before_db"), checked_db(after_db, "after_db")
        if before.shape != after.shape:
            raise UserError(f"before_db has shape {before.shape} and after_db {after.shape}; give the same")
        chosen = tiling or self.description.get("tiling")
        if chosen is None:
            raise UserError("the checkpoint does not say its tiling; give tiling='released' or 'two_band'")
        side = self.settings.image_size
        # Standardised by band before cutting: a released tile holds two places of one band.
        dates = (sar.standardise(jnp.asarray(images), self.statistics) for images in (before, after))
        first, second = (np.asarray(cut_tiles(images, side, chosen)) for images in dates)
        both = np.concatenate([first, second]).reshape(-1, len(BANDS), side, side)
        features = jnp.asarray(self._batched("tiles", both)).reshape(2, len(before), first.shape[1], -1)
        return self._head(pooled_difference(features[0], features[1], patch_op))

    def reconstruct(
        self, images_db: Any, mask: Any = None, seed: int = 0, norm_pix: bool | None = None
    ) -> Reconstruction:
        """Reconstruct images from mixes: image i of the batch is mixed with image B-1-i, as in pretraining.

        Args:
            images_db: Images at the checkpoint's size.
            mask: 0/1 per 32-pixel cell, row-major: where 1, the partner is seen; half the cells, drawn, unless given.
            seed: Seed of the drawn mask.
            norm_pix: Whether the model predicts cells standardised by their own mean and deviation; the checkpoint's
                own setting unless given.

        Raises:
            UserError: Wrong shape or unit, a wrong mask, no pretraining checkpoint, or `norm_pix` is not known.
        """
        self._needs("pretraining")
        images = checked_db(images_db, "images_db", self.settings.image_size)
        norm_pix = self._norm_pix if norm_pix is None else norm_pix
        if norm_pix is None:
            raise UserError("the checkpoint does not say whether its targets were standardised per cell; give norm_pix")
        cells = self._mask(mask, seed)
        vectors = np.empty((len(images), self.settings.cells, self.settings.cell_values), np.float32)
        with jax.default_matmul_precision("highest"):
            for rows in mirrored_chunks(len(images), BATCH):
                vectors[rows] = self._compiled["reconstruct"](self._arrays, images[rows], cells)
        predicted = np.asarray(vectors_to_image(jnp.asarray(vectors), len(BANDS), CELL))
        return Reconstruction(
            image_db=restore_db(vectors, images, self.statistics, norm_pix), prediction=predicted, mask=cells
        )

    @property
    def _norm_pix(self) -> bool | None:
        own = self.description.get("settings") or {}
        return self.description.get("norm_pix", own.get("loss", {}).get("norm_pix"))

    def _mask(self, mask: Any, seed: int) -> Float[np.ndarray, " cells"]:
        cells = self.settings.cells
        if mask is None:
            return np.asarray(draw_mask(jax.random.key(seed), cells, 0.5))
        given = np.asarray(mask, np.float32).reshape(-1)
        if given.shape != (cells,) or not np.isin(given, (0, 1)).all():
            raise UserError(
                f"mask has shape {np.shape(mask)}; give {cells} values of 0 or 1, one per cell of {CELL} px"
            )
        return given

    def _needs(self, kind: str) -> None:
        if self.kind != kind:
            raise UserError(f"this checkpoint is of kind {self.kind}; a {kind} checkpoint is needed here")

    @cached_property
    def _split(self) -> tuple[nnx.GraphDef, Any, Any]:
        return split_model(self._model)

    @property
    def _arrays(self) -> tuple[Any, Any]:
        return self._split[1:]

    @cached_property
    def _compiled(self) -> dict[str, Callable[..., Any]]:
        """Compiled functions of (arrays, images in dB, ...); sizes and options make their own compilations."""
        structure, statistics = self._split[0], self.statistics

        def restored(arrays: tuple[Any, Any]) -> Any:
            return merge_model(structure, *arrays)

        def encode(arrays: tuple[Any, Any], images_db: Any) -> Any:
            model, images = restored(arrays), sar.standardise(images_db, statistics)
            if isinstance(model, MixMAE):
                return model.encode(images).astype(jnp.float32).mean(axis=1)
            return model.features(images)

        def classify(arrays: tuple[Any, Any], images_db: Any) -> Any:
            return restored(arrays)(sar.standardise(images_db, statistics))

        def tiles(arrays: tuple[Any, Any], images: Any) -> Any:
            return restored(arrays).features(images)

        def reconstruct(arrays: tuple[Any, Any], images_db: Any, mask: Any) -> Any:
            return restored(arrays).reconstruct(sar.standardise(images_db, statistics), mask)

        return {
            "encode": jax.jit(encode),
            "classify": jax.jit(classify),
            "tiles": jax.jit(tiles),
            "reconstruct": jax.jit(reconstruct),
        }

    def _batched(self, what: str, images: ImagesDb) -> np.ndarray:
        """Runs a compiled function over batches and joins the results."""
        results = []
        with jax.default_matmul_precision("highest"):
            for start, stop, size in batches(len(images), BATCH):
                padded = _padded(images[start:stop], size)
                results.append(np.asarray(self._compiled[what](self._arrays, padded))[: stop - start])
        return np.concatenate(results)

    def _head(self, features: Float[Array, "batch features"]) -> np.ndarray:
        """Logits of pooled features."""
        assert isinstance(self._model, Classifier)
        with jax.default_matmul_precision("highest"):
            return np.asarray(dense(self._model.head, features), np.float32)


def batches(count: int, limit: int) -> Iterator[tuple[int, int, int]]:
    """Start, stop and padded size of each batch; sizes are powers of two, so that few programs are compiled."""
    for start in range(0, count, limit):
        stop = min(count, start + limit)
        yield start, stop, min(limit, 1 << (stop - start - 1).bit_length())


def _padded(images: ImagesDb, size: int) -> ImagesDb:
    """Images with the last one repeated up to a number."""
    return images if len(images) == size else np.concatenate([images, np.repeat(images[-1:], size - len(images), 0)])


def load(path: str | Path, statistics: str | None = None, step: int | None = None) -> LoadedModel:
    """A model from a checkpoint: converted, or of a run.

    Args:
        path: A folder that the converter or a run wrote.
        statistics: Name of the statistics that standardise the input; the checkpoint's own unless given.
        step: Which checkpoint of the folder; the newest unless given.

    Raises:
        UserError: There is no checkpoint, it does not fit this version, or the statistics are unknown.
    """
    if statistics is not None and statistics not in STATISTICS:
        raise UserError(f"statistics {statistics!r} are unknown; use one of {', '.join(sorted(STATISTICS))}")
    with quiet():
        loaded = load_parameters(path, step)
    described = loaded.description
    if tuple(described["bands"]) != BANDS or described["unit"] != "dB":
        raise UserError(
            f"{path}: its input is {described['bands']} in {described['unit']}; only {BANDS} in dB is known"
        )
    own = described["statistics"]
    chosen = STATISTICS[statistics] if statistics else BandStatistics(tuple(own["mean_db"]), tuple(own["std_db"]))
    settings = described_model(described["model"])
    model = model_from(described["kind"], settings, described.get("classes"), loaded.params, loaded.fixed)
    return LoadedModel(described["kind"], settings, chosen, described, model)
