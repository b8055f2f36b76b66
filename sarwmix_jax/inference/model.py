"""The interface to a checkpoint for Python users."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sarwmix_jax.checkpoints.loading import Loaded, load_parameters
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BANDS, STATISTICS, BandStatistics
from sarwmix_jax.inference.batching import batches, mirrored_chunks, padded
from sarwmix_jax.inference.checks import checked_db
from sarwmix_jax.inference.summary import summary
from sarwmix_jax.models.flood import flood_logits
from sarwmix_jax.models.mixmae import draw_mask
from sarwmix_jax.models.state import converted_once, merge_model
from sarwmix_jax.models.tokens import vectors_to_image
from sarwmix_jax.preprocessing import Prepared, prepare, standardise
from sarwmix_jax.settings.model import CELL, ModelSettings
from sarwmix_jax.settings.sections import FloodSettings, PatchOp, Tiling
from sarwmix_jax.tasks.pretraining import prediction_db

BATCH = 32
"""Images that are computed at a time; the last ones are padded to a power of two."""

ImagesDb = Float[np.ndarray, "batch band height width"]


@dataclass(frozen=True)
class Reconstruction:
    """Reconstruction of mixed images by a pretraining model.

    Attributes:
        image_db: (batch, band, height, width) in dB. Where the model predicts cells standardised by themselves, their
            mean and standard deviation are taken from the target.
        prediction: Output of the model as images, before the conversion to dB.
        mask: 0/1 per cell, row-major; where 1, the image's cell was hidden and the partner's was seen, where 0 the
            other way round. Every cell is reconstructed from the sequence in which it was hidden.
    """

    image_db: ImagesDb
    prediction: ImagesDb
    mask: Float[np.ndarray, " cells"]


@dataclass(frozen=True, eq=False, repr=False)
class LoadedModel:
    """A checkpoint ready for use. Images are (batch, band, height, width), VH and VV in dB, any number of them.

    `print(model)` shows what it is, what it takes, which methods its kind has with the shapes that they give, and where
    it came from.

    Attributes:
        kind: "pretraining", "classifier" or "flood".
        settings: Shape and arithmetic of the model.
        statistics: Band statistics that standardise the input.
        description: Everything that the checkpoint states about itself.
        place: Folder that it was loaded from.
    """

    kind: str
    settings: ModelSettings
    statistics: BandStatistics
    description: dict[str, Any]
    place: Path
    _loaded: Loaded

    def __repr__(self) -> str:
        return summary(self._loaded, self.statistics, self.place)

    @property
    def bands(self) -> tuple[str, ...]:
        """Band order of the input."""
        return self.settings.bands

    def encode(
        self, images_db: Any, *, resize: bool = False, check: bool = True
    ) -> Float[np.ndarray, "batch features"]:
        """Features: the mean over the encoder's output cells, 8*embed_dim values.

        Args:
            images_db: Images.
            resize: Accept images of any size, such as native 120-px patches, and resize them as in training.
            check: Refuse values that cannot be dB of VH and VV in this order; False: check shape and finiteness alone.

        Raises:
            UserError: Wrong shape, unit or order of bands.
        """
        return self._batched("encode", self._images(images_db, resize=resize, check=check))

    def encode_pyramid(
        self, images_db: Any, *, resize: bool = False, check: bool = True
    ) -> tuple[Float[np.ndarray, "batch _rows _columns _width"], ...]:
        """Feature maps of the four stages, for dense heads: strides 4, 8, 16, 32 px; widths 1, 2, 4, 8 embed_dim.

        The last map has passed the final LayerNorm, so that its mean is the result of `encode`. Arguments and errors
        are those of `encode`.
        """
        return self._batched("pyramid", self._images(images_db, resize=resize, check=check))

    def classify(
        self, images_db: Any, *, resize: bool = False, check: bool = True
    ) -> Float[np.ndarray, "batch classes"]:
        """Logits; apply a sigmoid for probabilities. Arguments are those of `encode`.

        Raises:
            UserError: As for `encode`, or the checkpoint is not a classifier.
        """
        self._needs("classifier")
        return self._batched("classify", self._images(images_db, resize=resize, check=check))

    def flood(
        self,
        before_db: Any,
        after_db: Any,
        patch_op: PatchOp = "avg",
        tiling: Tiling | None = None,
        *,
        check: bool = True,
    ) -> Float[np.ndarray, "batch classes"]:
        """Logits (no flood, flood) of pairs of dates; height and width may differ and are at least one tile.

        Args:
            before_db: Earlier images.
            after_db: Later images of the same places.
            patch_op: How the tiles are pooled, "avg" or "max".
            tiling: "released" or "two_band"; by default the checkpoint's own.
            check: As for `encode`; each date is checked separately.

        Raises:
            UserError: As for `encode`; shapes differ, an option is unknown, or the checkpoint is not for flood pairs.
        """
        self._needs("flood")
        before, after = checked_db(before_db, "before_db", check=check), checked_db(after_db, "after_db", check=check)
        if before.shape != after.shape:
            raise UserError(f"before_db has shape {before.shape} and after_db {after.shape}; give the same")
        chosen = tiling or self.description.get("tiling")
        if chosen is None:
            raise UserError("the checkpoint does not state its tiling; give tiling='released' or 'two_band'")
        pairs = np.stack([before, after], axis=1)
        tiles = (pairs.shape[-2] // self.settings.image_size) * (pairs.shape[-1] // self.settings.image_size)
        limit = max(1, BATCH // max(2 * tiles, 1))
        return self._batched("flood", pairs, limit, settings=FloodSettings(chosen, patch_op))

    def reconstruct(
        self, images_db: Any, mask: Any = None, seed: int = 0, norm_pix: bool | None = None, *, check: bool = True
    ) -> Reconstruction:
        """Reconstruct images from mixes: image i of the batch is mixed with image B-1-i, as in pretraining.

        The middle image of an odd batch is mixed with the first one.

        Args:
            images_db: Two or more images at the checkpoint's size.
            mask: 0/1 per 32-pixel cell, row-major: where 1, the partner is seen; by default half the cells at random.
            seed: Seed of the random mask.
            norm_pix: Whether the model predicts cells standardised by their own mean and standard deviation; by default
                the checkpoint's own setting.
            check: As for `encode`.

        Raises:
            UserError: As for `encode`; there is a single image, the mask is invalid, the checkpoint is not of
                pretraining, or `norm_pix` is not known.
        """
        self._needs("pretraining")
        images = self._images(images_db, resize=False, check=check)
        if len(images) < 2:
            raise UserError("images_db holds one image, which would be mixed with itself; give at least 2")
        norm_pix = self.description.get("norm_pix") if norm_pix is None else norm_pix
        if norm_pix is None:
            raise UserError(
                "the checkpoint does not state whether its targets were standardised per cell; give norm_pix"
            )
        cells = self._mask(mask, seed)
        image_db, prediction = np.empty_like(images), np.empty_like(images)
        with jax.default_matmul_precision("highest"):
            for rows, kept in mirrored_chunks(len(images), BATCH):
                found = self._compiled("reconstruct", norm_pix=norm_pix)(self._arrays, images[rows], cells)
                image_db[rows[:kept]], prediction[rows[:kept]] = (np.asarray(part)[:kept] for part in found)
        return Reconstruction(image_db, prediction, cells)

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
    def _arrays(self) -> tuple[Any, Any]:
        params, fixed = jax.device_put((self._loaded.params, self._loaded.fixed))
        return converted_once(params, self.settings.dtype), fixed

    @cached_property
    def _programs(self) -> dict[Any, Callable[..., Any]]:
        return {}

    def _compiled(self, what: str, **options: Any) -> Callable[..., Any]:
        """A compiled function of (arrays, images in dB, ...); it is compiled once per shape."""
        key = (what, *options.items())
        if key not in self._programs:
            self._programs[key] = jax.jit(partial(getattr(self, f"_{what}"), **options))
        return self._programs[key]

    def _images(self, images_db: Any, *, resize: bool, check: bool) -> ImagesDb:
        return checked_db(images_db, "images_db", None if resize else self.settings.image_size, check=check)

    def _prepared(self, images_db: Array) -> Array:
        """Resized and standardised images."""
        return prepare({"image": images_db}, self.statistics, side=self.settings.image_size).standardised

    def _encode(self, arrays: tuple[Any, Any], images_db: Array) -> Array:
        features: Array = merge_model(self._loaded.structure, *arrays).features(self._prepared(images_db))
        return features

    def _pyramid(self, arrays: tuple[Any, Any], images_db: Array) -> tuple[Array, ...]:
        maps = merge_model(self._loaded.structure, *arrays).encoder.pyramid(self._prepared(images_db))
        return tuple(stage.astype(jnp.float32) for stage in maps)

    def _classify(self, arrays: tuple[Any, Any], images_db: Array) -> Array:
        logits: Array = merge_model(self._loaded.structure, *arrays)(self._prepared(images_db))
        return logits

    def _flood(self, arrays: tuple[Any, Any], pairs_db: Array, settings: FloodSettings) -> Array:
        pairs = standardise(pairs_db, self.statistics)
        return flood_logits(merge_model(self._loaded.structure, *arrays), pairs, self.settings.image_size, settings)

    def _reconstruct(
        self, arrays: tuple[Any, Any], images_db: Array, mask: Array, *, norm_pix: bool
    ) -> tuple[Array, Array]:
        prepared = Prepared(images_db, standardise(images_db, self.statistics), None)
        vectors = merge_model(self._loaded.structure, *arrays).reconstruct(prepared.standardised, mask)
        vectors = vectors.astype(jnp.float32)
        image_db = prediction_db(vectors, prepared, self.statistics, norm_pix=norm_pix)
        return image_db, vectors_to_image(vectors, len(self.bands))

    def _batched(self, what: str, images: np.ndarray, limit: int = BATCH, **options: Any) -> Any:
        """Runs a compiled function over batches and joins the results, arrays or tuples of them."""
        results = []
        with jax.default_matmul_precision("highest"):
            for start, stop, size in batches(len(images), limit):
                given = padded(images[start:stop], size)
                found = self._compiled(what, **options)(self._arrays, given)
                results.append(jax.tree.map(lambda part, count=stop - start: np.asarray(part)[:count], found))
        return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def load(path: str | Path, statistics: str | None = None, step: int | None = None) -> LoadedModel:
    """See `sarwmix_jax.load`."""
    if statistics is not None and statistics not in STATISTICS:
        raise UserError(f"statistics {statistics!r} are unknown; use one of {', '.join(sorted(STATISTICS))}")
    loaded = load_parameters(path, step)
    if loaded.settings.bands != BANDS or loaded.description["unit"] != "dB":
        raise UserError(
            f"{path}: its input is {', '.join(loaded.settings.bands)} in {loaded.description['unit']}; only {BANDS} "
            "in dB is known"
        )
    _ = loaded.structure  # refuses arrays that do not fit
    chosen = STATISTICS[statistics] if statistics else loaded.statistics
    return LoadedModel(loaded.kind, loaded.settings, chosen, loaded.description, Path(path), loaded)
