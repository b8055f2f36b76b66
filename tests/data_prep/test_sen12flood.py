import itertools
import json
import shutil
import stat
import subprocess
import zipfile

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform

from sarwmix_jax.data.pairs import open_pairs
from sarwmix_jax.data.sources import open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.geotiff.warp import Grid, warp

from .flood_miniature import CHIP, PAIRS, UTM, filename, pair_names, write_miniature, zip_of

SCRIPT = "sen12flood.py"
GRID = Grid(UTM, CHIP, 512, 512)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return write_miniature(tmp_path_factory.mktemp("flood") / "raw")


@pytest.fixture(scope="module")
def archive(raw):
    return zip_of(raw, raw.with_name("flood.zip"))


@pytest.fixture
def copied(raw, tmp_path):
    return shutil.copytree(raw, tmp_path / "copy")


@pytest.fixture
def refusal(run_here, tmp_path):
    def run(*arguments) -> str:
        done = run_here(SCRIPT, "--out", tmp_path / "refused", *arguments)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done
        assert not (tmp_path / "refused").exists()
        return done.stderr

    return run


def source_path(raw, folder, key, band="VH"):
    return raw / folder / f"{filename(folder, key)}_corrected_{band}.tif"


def nearest(path, shift: tuple[float, float]) -> np.ndarray:
    """The scene at the centres of the chip's pixels, moved by source pixels, through exact coordinates."""
    rows, columns = np.mgrid[:512, :512] + 0.5
    x, y = CHIP.c + 10 * columns, CHIP.f - 10 * rows
    with rasterio.open(path) as file:
        values, grid = file.read(1), file.transform
    east, north = transform(UTM, "EPSG:4326", x.ravel(), y.ravel())
    column = np.floor((np.array(east) - grid.c) / grid.a + shift[0]).astype(int)
    row = np.floor((np.array(north) - grid.f) / grid.e + shift[1]).astype(int)
    return values[row, column].reshape(512, 512)


def expected_power(raw, folder, key) -> np.ndarray:
    found = np.stack([warp(source_path(raw, folder, key, b).read_bytes(), GRID, "") for b in ("VH", "VV")])
    return np.where(np.isfinite(found), found, np.float32(0))


def test_records_hold_each_scene_once_and_exactly_the_pairs(run_here, raw, tmp_path):
    done = run_here(SCRIPT, "--raw-root", raw, "--out", tmp_path / "out")
    assert done.returncode == 1 and "--on-error=skip accepts that" in done.stderr
    for split in ("train", "test"):
        pairs = open_pairs(tmp_path / "out", split)
        assert [pair["name"] for pair in (pairs[n] for n in range(len(pairs)))] == pair_names(split)
        assert len(open_records(tmp_path / "out", split)) == 3
        for number, (folder, first, second, label) in enumerate(PAIRS[split]):
            pair = pairs[number]
            power = np.stack([expected_power(raw, folder, key) for key in (first, second)])
            db = 10 * np.log10(np.where(power == 0, np.float32(1e-6), power))
            np.testing.assert_array_equal(pair["image"], db.astype(np.float16))
            np.testing.assert_array_equal(pair["valid_pixels"], (power != 0).all(axis=1))
            assert pair["label"] == label
    assert (pair["image"][~np.broadcast_to(pair["valid_pixels"][:, None], pair["image"].shape)]).min() == -60
    record = open_records(tmp_path / "out", "test")[0]
    assert (record["crs"], tuple(record["transform"])) == (UTM, tuple(CHIP)[:6])
    batch = open_pairs(tmp_path / "out", "train[1:]+test[:1]").read_batch([0, 2])
    assert batch["image"].shape == (2, 2, 2, 512, 512) and list(batch["label"]) == [0, 0]


def test_the_report_counts_what_was_made_and_dropped(run_here, raw, tmp_path):
    done = run_here(SCRIPT, "--raw-root", raw, "--out", tmp_path / "out", "--on-error=skip")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "preparation.json").read_text())
    assert (report["sequences"], report["scenes"], report["scenes in pairs"]) == (5, 14, 12)
    assert report["pairs"]["train"] == {
        "made": 3,
        "no flood": 1,
        "flood": 2,
        "flood share": 0.6667,
        "dropped": {"a file is missing": 2, "its sequence has no S2 image (B04)": 1},
        "published": 11_078,
    }
    assert report["pairs"]["test"] == {
        "made": 3,
        "no flood": 1,
        "flood": 2,
        "flood share": 0.6667,
        "dropped": {"25% or more zeros in a band": 2, "not 512x512 after alignment": 1},
        "published": 2_662,
    }
    ((name, counts),) = report["values taken as zero"].items()
    assert name == f"7__{filename('7', 4)}" and 400 < counts["not finite"] < 900
    assert "test: 3 pairs (2 flood, 1 no flood); published 2662" in done.stdout
    assert f"{counts['not finite']} values not finite, taken as zero" in done.stdout


def test_the_published_files_hold_the_same(run_here, raw, tmp_path):
    done = run_here(SCRIPT, "--raw-root", raw, "--out", tmp_path / "out", "--layout=npy")
    assert done.returncode == 1
    for split in ("train", "test"):
        paths = sorted((tmp_path / "out" / split).iterdir())
        assert [path.stem for path in paths] == sorted(pair_names(split))
        for folder, first, second, label in PAIRS[split]:
            path = (
                tmp_path
                / "out"
                / split
                / f"{folder}__{filename(folder, first)}__{filename(folder, second)}__{label}.npy"
            )
            values = np.load(path)
            assert (values.shape, values.dtype) == ((2, 2, 512, 512), np.float32)
            for date, key in zip(values, (first, second), strict=True):
                np.testing.assert_array_equal(date, expected_power(raw, folder, key))
    assert run_here(SCRIPT, "--raw-root", raw, "--out", tmp_path / "records").returncode == 1
    npy, records = (json.loads((tmp_path / name / "preparation.json").read_text()) for name in ("out", "records"))
    for name in ("sequences", "scenes", "scenes in pairs", "scenes left out", "values taken as zero", "pairs"):
        assert npy[name] == records[name], name


@pytest.mark.parametrize("key, share", [(2, 0.26), (3, 0.24)])
def test_the_shares_of_zeros_are_those_of_the_miniature(raw, key, share):
    assert (expected_power(raw, "7", key)[0] == 0).mean() == pytest.approx(share, abs=0.008)
    assert not (expected_power(raw, "7", key)[1] == 0).any()


def test_the_warp_is_nearest_neighbour_within_an_eighth_of_a_pixel(raw):
    """GDAL, here as in gdalwarp, takes coordinates that are right to an eighth of a source pixel."""
    path = source_path(raw, "0063", 1)
    found = warp(path.read_bytes(), GRID, "")
    shifts = itertools.product((0, -0.125, 0.125), repeat=2)
    near = np.any([found == nearest(path, shift) for shift in shifts], axis=0)
    assert near.all()
    assert (found == nearest(path, (0, 0))).mean() > 0.95


def test_the_warp_equals_gdalwarp(raw, tmp_path):
    if shutil.which("gdalwarp") is None:
        pytest.skip("gdalwarp is not installed: the warp is compared with exact coordinates alone")
    for folder, key, band in (("0063", 1, "VH"), ("0063", 10, "VV"), ("7", 3, "VH")):
        path = source_path(raw, folder, key, band)
        bounds = map(str, (600_000, 5_400_000 - 5120, 605_120, 5_400_000))
        target = tmp_path / f"{folder}_{key}.tif"
        command = ["gdalwarp", "-q", "-t_srs", UTM, "-tr", "10", "10", "-te", *bounds, "-r", "near", path, target]
        subprocess.run(command, check=True, timeout=300)
        with rasterio.open(target) as file:
            expected = file.read(1)
        found = warp(path.read_bytes(), GRID, "")
        equal = (expected == found).mean()
        print(f"{path.name}: {equal:.6f} of the pixels equal those of gdalwarp")
        assert expected.shape == found.shape and equal >= 0.999


def test_pixels_outside_of_the_coverage_are_zero(raw):
    half = Grid(UTM, CHIP @ rasterio.Affine.translation(256 + 15, 0), 512, 512)
    found = warp(source_path(raw, "0063", 1).read_bytes(), half, "")
    assert (found[:, :200] > 0).all() and (found[:, 300:] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["records", "npy"])
def test_zip_workers_and_parts_change_no_byte(run_here, raw, archive, tmp_path, layout):
    fixed = [f"--layout={layout}", "--on-error=skip", *(["--records-per-shard=2"] if layout == "records" else [])]
    runs = {"folder": ["--raw-root", raw], "zip": ["--zip", archive, "--workers=2"]}
    for name, more in runs.items():
        done = run_here(SCRIPT, *more, *fixed, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
    for part in ("--shard=2/2", "--shard=1/2", "--merge"):
        assert run_here(SCRIPT, "--zip", archive, *fixed, "--out", tmp_path / "parts", part).returncode == 0
    files = [path.relative_to(tmp_path / "folder") for path in (tmp_path / "folder").rglob("*") if path.is_file()]
    assert len(files) >= 7
    for other in ("zip", "parts"):
        assert len([p for p in (tmp_path / other).rglob("*") if p.is_file()]) == len(files)
        for file in files:
            assert (tmp_path / "folder" / file).read_bytes() == (tmp_path / other / file).read_bytes(), file
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "parts", "zip"]


@pytest.mark.parametrize("layout", ["records", "npy"])
def test_damaged_files_stop_or_are_skipped(run_here, refusal, copied, tmp_path, layout):
    path = source_path(copied, "7", 1)
    path.write_bytes(path.read_bytes()[:5000])
    fixed = ["--raw-root", copied, f"--layout={layout}"]
    message = refusal(*fixed)
    assert path.name in message and "damaged" in message
    done = run_here(SCRIPT, *fixed, "--out", tmp_path / "out", "--on-error=skip")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "preparation.json").read_text())
    assert report["pairs"]["test"]["made"] == 1
    assert report["pairs"]["test"]["dropped"]["cannot be read"] == 3


def test_lists_choose_the_splits(run_here, refusal, raw, tmp_path):
    (tmp_path / "train.csv").write_text("7\n0200\n")
    (tmp_path / "test.csv").write_text("0063\n")
    lists = ["--train-csv", tmp_path / "train.csv", "--test-csv", tmp_path / "test.csv"]
    done = run_here(SCRIPT, "--raw-root", raw, *lists, "--out", tmp_path / "out", "--on-error=skip")
    assert done.returncode == 0, done.stderr
    assert "2 sequences are in no list" in done.stdout
    test = open_pairs(tmp_path / "out", "test")
    assert [pair.name for pair in test.pairs] == pair_names("train")
    assert "belong together" in refusal("--raw-root", raw, *lists[:2])
    (tmp_path / "test.csv").write_text("0063\n7\n")
    assert "names the sequence 7, which is in another split too" in refusal("--raw-root", raw, *lists)
    (tmp_path / "test.csv").write_text("0064\n")
    assert "names the sequence 0064, which S1list.json does not hold" in refusal("--raw-root", raw, *lists)


@pytest.mark.parametrize("layout", ["records", "npy"])
def test_a_dry_run_writes_nothing(run_here, raw, tmp_path, layout):
    done = run_here(SCRIPT, "--raw-root", raw, f"--layout={layout}", "--dry-run", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    expected = {"records": "would write 12 records in 2 files", "npy": "would write up to 12 pairs of 4 sequences"}
    assert expected[layout] in done.stdout and not list(tmp_path.iterdir())


def test_odd_indices_are_one_line(refusal, tmp_path):
    root = tmp_path / "raw"
    root.mkdir()
    assert "must hold S1list.json once" in refusal("--raw-root", root)
    assert "no folder" in refusal("--raw-root", root / "nothing")
    for text, message in (
        ("{", "cannot be understood"),
        ('{"0001": {"1": {"FLOODING": true}}}', "cannot be understood"),
        ('{"0001": {"1": {"FLOODING": true, "filename": "../../etc/a"}}}', "cannot be understood"),
        ('{"..": {}}', "names the folder '..', which is not a plain name"),
        ('{"123": {}}', "sequence '123' has neither four nor one or two digits"),
        ('{"0001": {}}', "holds no pair"),
    ):
        (root / "S1list.json").write_text(text)
        assert message in refusal("--raw-root", root)


def bad_zip(path, name, *, mode=None, twice=False):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("S1list.json", "{}")
        entry = zipfile.ZipInfo(name)
        if mode is not None:
            entry.create_system, entry.external_attr = 3, mode << 16
        file.writestr(entry, "/etc/passwd")
        if twice:
            with pytest.warns(UserWarning, match="Duplicate name"):
                file.writestr(name, "again")
    return path


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("../outside.tif", {}, "leads out of its folder"),
        ("a/../../outside.tif", {}, "leads out of its folder"),
        ("/etc/outside.tif", {}, "leads out of its folder"),
        ("link.tif", {"mode": stat.S_IFLNK | 0o777}, "a link or device"),
        ("pipe.tif", {"mode": stat.S_IFIFO | 0o644}, "a link or device"),
        ("a.tif", {"twice": True}, "holds a.tif twice"),
        ("b/S1list.json", {}, "must hold S1list.json once"),
    ],
)
def test_unsafe_zips_are_refused(refusal, tmp_path, name, options, message):
    path = bad_zip(tmp_path / "bad.zip", name, **options)
    assert message in refusal("--zip", path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bad.zip"]


def test_zips_that_claim_too_much_or_are_cut_are_refused(refusal, monkeypatch, archive, tmp_path):
    cut = tmp_path / "cut.zip"
    cut.write_bytes(archive.read_bytes()[:100_000])
    assert "is not a complete zip" in refusal("--zip", cut)
    assert "no file" in refusal("--zip", tmp_path / "nothing.zip")
    monkeypatch.setattr("sarwmix_jax.preparation.flood_files.LARGEST_BYTES", 1_000_000)
    assert "more than any file of the data set; do not" in refusal("--zip", archive)


def test_damage_inside_a_zip_is_named(refusal, archive, tmp_path):
    path = tmp_path / "damaged.zip"
    data = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as file:
        entry = file.getinfo(f"SEN12FLOOD/7/{filename('7', 1)}_corrected_VV.tif")
    data[entry.header_offset + 5000] ^= 255
    path.write_bytes(data)
    message = refusal("--zip", path)
    assert f"7/{filename('7', 1)}_corrected_VV.tif in {path} is damaged" in message


def test_pairs_that_are_not_there_are_named(run_here, raw, tmp_path):
    out = tmp_path / "out"
    assert run_here(SCRIPT, "--raw-root", raw, "--out", out, "--on-error=skip").returncode == 0
    with pytest.raises(UserError, match="no split 'validation'"):
        open_pairs(out, "validation")
    with pytest.raises(IndexError):
        open_pairs(out, "test")[3]
    index = out / "pairs.csv"
    (out / "checksums.json").unlink()
    text = index.read_text()
    index.write_text("\ufeff" + text, encoding="utf-8")
    assert [pair.name for pair in open_pairs(out, "train").pairs] == pair_names("train")
    for number in ("9", "-"):
        index.write_text(text.replace(",train,", f",train,{number}", 1).replace(",-0,", ",-1,"))
        with pytest.raises(UserError, match="names a record that is missing"):
            open_pairs(out, "train")
    index.write_text(text[:-2] + "7\n")
    with pytest.raises(UserError, match="as 7, not 0 or 1"):
        open_pairs(out, "test")
    index.write_text("name,split\na,b\n")
    with pytest.raises(UserError, match="cannot be understood"):
        open_pairs(out, "train")
    index.unlink()
    with pytest.raises(UserError, match=r"holds no pairs\.csv"):
        open_pairs(out, "train")
