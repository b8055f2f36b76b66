"""Tiles of scenes: their positions, and their values with nodata as NaN."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from affine import Affine
from jaxtyping import Float
from rasterio.windows import Window

from sarwmix_jax.errors import UserError
from sarwmix_jax.geotiff.scenes import Scene
from sarwmix_jax.geotiff.values import Zeros


@dataclass(frozen=True)
class TileGrid:
    """How scenes are cut into tiles; pixels that remain at the right and bottom are not used.

    Attributes:
        side: Rows and columns of a tile.
        overlap: Pixels that neighbouring tiles share.
        zeros: Exact zeros are nodata where all bands are zero (`outside`), are always nodata (`nodata`), or are
            measured values (`floor`).
    """

    side: int
    overlap: int = 0
    zeros: Zeros = "outside"

    def __post_init__(self) -> None:
        if self.side < 1:
            raise UserError(f"--tile={self.side}: at least 1 is needed")
        if not 0 <= self.overlap < self.side:
            raise UserError(f"--overlap={self.overlap}: give 0 to {self.side - 1}, less than --tile")

    def places(self, scene: Scene) -> Iterator[tuple[int, int]]:
        """Row and column of the upper left pixel of every tile."""
        step = self.side - self.overlap
        for row in range(0, scene.height - self.side + 1, step):
            for column in range(0, scene.width - self.side + 1, step):
                yield row, column

    def read(self, scene: Scene, row: int, column: int) -> Float[np.ndarray, "band side side"]:
        """Values of a tile in the unit of the scene, nodata as NaN.

        Raises:
            RecordError: A file cannot be read.
        """
        return scene.read(Window(column, row, self.side, self.side), self.zeros)

    @staticmethod
    def transform(scene: Scene, row: int, column: int) -> tuple[float, ...]:
        """The six numbers of a tile's transform from pixels to coordinates."""
        return tuple(Affine(*scene.transform) @ Affine.translation(column, row))[:6]
