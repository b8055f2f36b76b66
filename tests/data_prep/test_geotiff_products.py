"""Products with the names and tags of their producers: prepared without any option, or refused."""

import numpy as np
import pytest

from sarwmix_jax.data.sources import open_records

from .test_geotiff import records_of, scene_db, write_raster

SCRIPT = "geotiff.py"
HYP3 = "S1A_IW_20240108T015902_DVP_RTC30_G_{}_1234"
OPERA = "OPERA_L2_RTC-S1_T137-292318-IW1_20240108T015902Z_20240109T091413Z_S1A_30_v1.0"
OPERA_TAGS = {
    f"PROCESSING_INFORMATION_{key}": text
    for key, text in {
        "INPUT_BACKSCATTER_NORMALIZATION_CONVENTION": "beta0",
        "OUTPUT_BACKSCATTER_NORMALIZATION_CONVENTION": "gamma0",
        "OUTPUT_BACKSCATTER_EXPRESSION_CONVENTION": "linear power/intensity",
        "OUTPUT_BACKSCATTER_DECIBEL_CONVERSION_EQUATION": "backscatter_dB = 10*log10(backscatter_linear)",
    }.items()
}


def write_pair(folder, name, values, **more):
    for n, band in enumerate(("VH", "VV")):
        write_raster(folder / f"{name.format(band)}.tif", values[n], **more)


@pytest.mark.parametrize(
    "name, unit, quantity, tags",
    [
        (OPERA + "_{}", "linear", "gamma0", OPERA_TAGS),
        (HYP3.format("gpuned") + "_{}", "linear", "gamma0", {}),
        (HYP3.format("spuned") + "_{}", "linear", "sigma0", {}),
        (HYP3.format("gdmfcm") + "_{}", "dB", "gamma0", {}),
        ("2023-03-18-00_00_2023-03-18-23_59_Sentinel-1_IW_VV+VH_{}_-_decibel_gamma0", "dB", "gamma0", {}),
        ("2023-03-18-00_00_2023-03-18-23_59_Sentinel-1_IW_VV+VH_{}_-_linear_gamma0", "linear", "gamma0", {}),
        ("S1A_IW_GRDH_1SDV_20230318_Orb_Cal_TC.data/Sigma0_{}_db", "dB", "sigma0", {}),
        ("S1A_IW_GRDH_1SDV_20230318_rtc/iw-{}.rtc", "linear", "gamma0", {}),
    ],
)
def test_names_and_tags_of_products(run_here, tmp_path, name, unit, quantity, tags):
    values_db = scene_db(32)
    write_pair(tmp_path / "in", name, values_db if unit == "dB" else 10 ** (values_db / 10), **tags)
    done = run_here(SCRIPT, "--inputs", tmp_path / "in", "--tile=32", "--out", tmp_path / "out")
    assert done.returncode == 0 and "passed over" not in done.stdout, done.stderr
    assert open_records(tmp_path / "out", "train").contract.quantity == quantity
    (record,) = records_of(tmp_path / "out").values()
    np.testing.assert_allclose(record["image"], values_db, atol=0.02)


@pytest.mark.parametrize(
    "name, more",
    [
        (HYP3.format("gauned") + "_{}", {"nodata": 0}),
        ("S1_sigma0_amplitude_{}", {}),
        ("amplitude/S1_sigma0_{}", {}),
        ("S1_sigma0_{}", {"UNITS": "amplitude"}),
        ("S1_sigma0_{}", {"NOTE": "calibrated amplitudes"}),
        ("S1_sigma0_{}", {"descriptions": ["Amplitude"]}),
    ],
)
def test_amplitude_is_refused_wherever_it_is_stated(refusal, tmp_path, name, more):
    write_pair(tmp_path / "in", name, 10 ** (scene_db(32) / 20), **more)
    message = refusal("--inputs", tmp_path / "in", "--tile=32")
    assert "_VH.tif is declared as amplitude (" in message and "square it to power" in message
    assert "is declared as amplitude" in refusal("--inputs", tmp_path / "in", "--tile=32", "--unit=linear")


def test_ancillary_files_are_passed_over_in_one_line_and_faults_are_not(run_here, refusal, tmp_path):
    power = 10 ** (scene_db(32) / 10)
    folder = tmp_path / "in" / HYP3.format("gpuned")
    write_pair(folder, folder.name + "_{}", power, nodata=0)
    for end in ("inc_map", "inc_map_ell", "ls_map", "dem", "area"):
        write_raster(folder / f"{folder.name}_{end}.tif", power[0] * 1000)
    write_raster(folder / f"{folder.name}_rgb.tif", (np.stack([*power, power[0]]) * 255).astype(np.uint8))
    write_pair(tmp_path / "in", OPERA + "_{}", power, **OPERA_TAGS)
    for end in ("mask", "VV_mask"):
        write_raster(tmp_path / "in" / f"{OPERA}_{end}.tif", np.zeros((32, 32), np.uint8))
    fixed = ["--inputs", tmp_path / "in", "--tile=32"]
    done = run_here(SCRIPT, *fixed, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("skipped files") == 1
    assert "skipped files without backscatter: 1 DEM, 1 RGB, 1 area, 2 incidence angle, 3 mask\n" in done.stdout
    assert len(records_of(tmp_path / "out")) == 2
    (folder / f"{folder.name}_VV.tif").rename(folder / f"{folder.name}_VV_incomplete.dat")
    assert "for which no VV is found" in refusal(*fixed)
    (folder / f"{folder.name}_VH.tif").unlink()
    write_raster(tmp_path / "in" / "my_mask.tif", np.zeros((32, 32), np.uint8))
    assert "my_mask.tif belongs to scene my_mask, for which no VH is found" in refusal(*fixed)


def test_nothing_but_ancillary_files_is_refused(refusal, tmp_path):
    write_raster(tmp_path / "in" / f"{OPERA}_mask.tif", np.zeros((32, 32), np.uint8))
    assert "no file with backscatter in the inputs" in refusal("--inputs", tmp_path / "in", "--tile=32")


def test_the_user_decides_between_two_statements_but_not_against_one(run_here, refusal, tmp_path):
    write_pair(tmp_path / "in", "linear_to_db_sigma0_and_gamma0_{}", scene_db(32))
    fixed = ["--inputs", tmp_path / "in", "--tile=32"]
    assert "is declared as dB (its name) and linear (its name); correct one, or give --unit" in refusal(*fixed)
    assert "correct one, or give --quantity" in refusal(*fixed, "--unit=dB")
    assert "is declared as gamma0 (its name) and sigma0 (its name), expected beta0" in refusal(
        *fixed, "--unit=dB", "--quantity=beta0"
    )
    assert "taken as linear, but 100% of the values are negative" in refusal(*fixed, "--unit=linear")
    done = run_here(SCRIPT, *fixed, "--unit=dB", "--quantity=sigma0", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr


def test_bands_that_the_user_calls_otherwise_are_refused(refusal, tmp_path):
    path = write_raster(tmp_path / "sigma0.tif", scene_db(32), descriptions=["VH", "VV"])
    message = refusal("--inputs", path, "--tile=32", "--bands=VV,VH")
    assert "states VH for band 1, --bands states VV; correct one" in message


def test_scenes_of_one_name_are_refused(refusal, tmp_path):
    write_pair(tmp_path / "in", "{}/gamma0", scene_db(32))
    write_pair(tmp_path / "in", "gamma0_{}", scene_db(32))
    assert "both belong to scene gamma0; rename one" in refusal("--inputs", tmp_path / "in", "--tile=32")
