"""Writes a drawn pair of GeoTIFFs: names, bands in any order, masks, tags and files beside."""

import math
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp

from tests.data_prep.geotiff_pairs import OTHER, POLARISATIONS, SIDE, STEMS, WHOLE, Drawing, Pair

GRID = rasterio.Affine(10, 0, 600_000, 0, -10, 5_400_000)
MASKS = ("none", "none", "internal", ".msk", "alpha", "dataMask", "NODATA_VALUES")


def draw_pair(seed: int, folder: Path) -> Pair:
    """The pair of a seed, written below a folder."""
    drawing = Drawing(seed)
    drawing.draw()
    drawing.pair.folder = folder
    Writing(drawing, folder).write()
    return drawing.pair


class Writing:
    """Writes what is drawn."""

    def __init__(self, drawing: Drawing, folder: Path):
        self.drawing, self.folder, self.rng = drawing, folder, drawing.rng
        self.pair, self.fault = drawing.pair, drawing.pair.fault
        self.mask_kind = drawing.choose(MASKS)
        if self.mask_kind == "NODATA_VALUES" and (drawing.nodata is not None or drawing.aux_nodata is not None):
            self.mask_kind = "none"
        if self.fault == "odd mask":
            self.mask_kind = "dataMask"
        # Two files have two masks, and one of them may be all that knows.
        self.third = drawing.layout != "files" and self.rng.random() < 0.4
        self.scale_aside = self.rng.random() < 0.3
        self.pair.drawn["mask"] = self.mask_kind

    def write(self) -> None:
        words = "_".join(self.drawing.words)
        layout = self.drawing.layout
        if layout == "files":
            stem = self.drawing.choose(STEMS)
            if self.pair.drawn["quantity by"] == "hyp3":
                letters = f"{self.pair.quantity[0]}{ {'dB': 'd', 'linear': 'p'}[self.pair.unit] }uned"
                stem = f"S1A_IW_20240108T015902_DVP_RTC30_G_{letters}_1234_{{pol}}"
            self.pair.drawn["name"] = stem
            for number, pol in enumerate(POLARISATIONS):
                name = self.drawing.parent + stem.format(words=words, pol=pol, low=pol.lower())
                self.write_file(f"{name}.tif", [number], [pol])
            return
        stem = self.drawing.choose(WHOLE)
        self.pair.drawn["name"] = stem
        order = [0, 1] if layout == "VH,VV" else [1, 0]
        pols = [POLARISATIONS[number] for number in order]
        self.write_file(f"{self.drawing.parent}{stem.format(words=words)}.tiff", order, pols)

    def write_file(self, name: str, bands: list[int], pols: list[str]) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = [self.drawing.stored[number] for number in bands]
        dtype = self.drawing.stored.dtype
        valid = np.ones((SIDE, SIDE), bool)
        if self.mask_kind != "none":
            (_, rows, columns) = self.drawing.hole()
            valid[rows, columns] = False
            self.pair.valid &= valid
        extra = [np.full((SIDE, SIDE), 39, dtype)] if self.third else []
        if self.mask_kind == "NODATA_VALUES":
            for band in (*stored, *extra):
                band[~valid] = 77
        if self.mask_kind in ("alpha", "dataMask"):
            extra.append(np.where(valid, 255 if self.rng.random() < 0.5 else 1, 0).astype(dtype))
            if self.fault == "odd mask":
                extra[-1][3, 3] = 2
        arrays = [*stored, *extra]
        profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "crs": "EPSG:32633", "transform": GRID}
        nodata = -7777.0 if self.fault == "side-car nodata" else self.drawing.nodata
        with rasterio.open(path, "w", count=len(arrays), dtype=dtype, nodata=nodata, **profile) as file:
            if self.mask_kind == "alpha":  # kept only if it is known before the values
                file.colorinterp = (*file.colorinterp[:-1], ColorInterp.alpha)
            file.write(np.stack(arrays))
            self.describe(file, pols, len(arrays))
        if self.mask_kind in ("internal", ".msk"):
            with (
                rasterio.Env(GDAL_TIFF_INTERNAL_MASK=self.mask_kind == "internal"),
                rasterio.open(path, "r+") as file,
            ):
                file.write_mask(valid)
            assert path.with_name(path.name + ".msk").is_file() == (self.mask_kind == ".msk")
        self.write_beside(path, len(arrays))

    def describe(self, file: rasterio.io.DatasetWriter, pols: list[str], count: int) -> None:
        drawing = self.drawing
        tags = dict(drawing.tags)
        if self.mask_kind == "NODATA_VALUES":
            tags["NODATA_VALUES"] = " ".join(["77"] * count)
        if self.fault == "unapplied scale":
            tags["scale_factor"] = "0.5"
        file.update_tags(**tags)
        named = [*pols]
        if len(pols) == 1:
            named = [drawing.choose(("", pols[0], pols[0].lower()))]
            if self.fault == "polarisation stated twice":
                named = [OTHER[pols[0]]]
        elif self.fault == "no polarisation":
            named = ["", ""]
        else:
            named = self.name_bands(file, pols, count)
        for number, name in enumerate(named, start=1):
            file.set_band_description(number, "_".join(filter(None, (drawing.band_words, name))))
            if drawing.band_units:
                file.set_band_unit(number, drawing.band_units)
        if self.third:
            file.set_band_description(len(pols) + 1, "angle")
            file.set_band_unit(len(pols) + 1, "degrees")
        if self.mask_kind == "dataMask":
            file.set_band_description(count, drawing.choose(("dataMask", "data_mask", "valid mask")))
        if not self.scale_aside:
            if drawing.scale != 1:
                file.scales = (drawing.scale,) * count
            if drawing.offset != 0:
                file.offsets = (drawing.offset,) * count

    def name_bands(self, file: rasterio.io.DatasetWriter, pols: list[str], count: int) -> list[str]:
        """How two bands of a file are distinguished: descriptions, their tags, or the option."""
        way = self.drawing.choose(("description", "tag", "option"))
        self.pair.drawn["bands by"] = way
        if way == "tag":
            for number, pol in enumerate(pols, start=1):
                file.update_tags(number, POLARIZATION=pol)
        if way == "option":
            others = ["angle"] * self.third + ["mask"] * (self.mask_kind in ("alpha", "dataMask"))
            assert len(pols) + len(others) == count
            self.pair.options.append("--bands=" + ",".join(pols + others))
        return pols if way == "description" else ["", ""]

    def write_beside(self, path: Path, count: int) -> None:
        """Side-car files: what the raster does not state, what it states too, and faults."""
        band = ""
        if self.drawing.aux_nodata is not None or self.fault == "side-car nodata":
            value = -8888.0 if self.fault == "side-car nodata" else self.drawing.aux_nodata
            band += f"<NoDataValue>{'nan' if math.isnan(value) else repr(value)}</NoDataValue>"
        if self.scale_aside and self.drawing.scale != 1:
            band += f"<Offset>{self.drawing.offset!r}</Offset><Scale>{self.drawing.scale!r}</Scale>"
        aside = path.with_name(path.name + ".aux.xml")
        if band:
            bands = "".join(f'<PAMRasterBand band="{n}">{band}</PAMRasterBand>' for n in range(1, count + 1))
            aside.write_text(f"<PAMDataset>{bands}</PAMDataset>")
        if self.fault == "side-car damaged":
            aside.write_text("<PAMDataset><PAMRasterBand")
        if self.fault == "side-car link":
            end = self.drawing.choose((".aux.xml", ".msk"))
            link = path.with_name(path.name + end)
            link.unlink(missing_ok=True)
            (self.folder.parent / "elsewhere").write_text("<PAMDataset/>")
            link.symlink_to(self.folder.parent / "elsewhere")
        shift = 100 if self.fault == "world file elsewhere" else 0
        if shift or self.rng.random() < 0.2:
            lines = (GRID.a, GRID.d, GRID.b, GRID.e, GRID.c + GRID.a / 2 + shift, GRID.f + GRID.e / 2)
            path.with_suffix(self.drawing.choose((".tfw", ".wld", ".TFW"))).write_text("\n".join(map(str, lines)))
        if self.rng.random() < 0.2:
            path.with_suffix(".prj").write_text(rasterio.crs.CRS.from_epsg(32633).to_wkt())
