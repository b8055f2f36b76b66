"""What words of names and tags state, and what they do not."""

import pytest

from sarwmix_jax.geotiff import statements

BOTH = ("VH", "VV")
HYP3 = "S1A_IW_20240108T015902_DVP_RTC30_G_{}_1234_VV"
OPERA = "OPERA_L2_RTC-S1_T137-292318-IW1_20240108T015902Z_20240109T091413Z_S1A_30_v1.0"


@pytest.mark.parametrize(
    "text, quantities, units",
    [
        (HYP3.format("gpuned"), {"gamma0"}, {"linear"}),
        (HYP3.format("spuned"), {"sigma0"}, {"linear"}),
        (HYP3.format("gdmfcm"), {"gamma0"}, {"dB"}),
        (HYP3.format("sauned"), {"sigma0"}, {"amplitude"}),
        (HYP3.format("xpuned"), set(), set()),
        (OPERA + "_VV", set(), set()),
        ("Sigma0_VV_db", {"sigma0"}, {"dB"}),
        ("Gamma0_VH", {"gamma0"}, set()),
        ("..._IW_VV+VH_VV_-_decibel_gamma0", {"gamma0"}, {"dB"}),
        ("..._IW_VH_-_linear_gamma0_-_orthorectified", {"gamma0"}, {"linear"}),
        ("sigma nought, linear power", {"sigma0"}, {"linear"}),
        ("linear power/intensity", set(), {"linear"}),
        ("intensity_db", set(), {"dB"}),
        ("power in decibels", set(), {"dB"}),
        ("backscatter [dB]", set(), {"dB"}),
        ("γ0 (dB)", {"gamma0"}, {"dB"}),  # noqa: RUF001
        ("gamma0 from sigma0, not in dB", {"gamma0"}, set()),
        ("linear_to_dB", set(), {"linear", "dB"}),
        ("sigma0_and_gamma0", {"sigma0", "gamma0"}, set()),
        ("amplitude_db", set(), {"amplitude", "dB"}),
        ("S1_amp_VV", set(), {"amplitude"}),
        ("database of a powerplant, bilinear, amplified", set(), set()),
        ("GAMMA_06012020", set(), set()),
    ],
)
def test_words(text, quantities, units):
    assert statements.quantities_in(text) == quantities
    assert statements.units_in(text) == units


def test_tags_count_by_their_key():
    prefix = "PROCESSING_INFORMATION_"
    official = {
        prefix + "INPUT_BACKSCATTER_NORMALIZATION_CONVENTION": "beta0",
        prefix + "OUTPUT_BACKSCATTER_NORMALIZATION_CONVENTION": "gamma0",
        prefix + "OUTPUT_BACKSCATTER_EXPRESSION_CONVENTION": "linear power/intensity",
        prefix + "OUTPUT_BACKSCATTER_DECIBEL_CONVERSION_EQUATION": "backscatter_dB = 10*log10(backscatter_linear)",
        "NOISE_UNITS": "dB",
        "outputFormula": "dB",
        "TITLE": "10*log10(power) is dB",
        "HISTORY": "sigma0, dB",
    }
    found = statements.read_statements([("its name", OPERA), *statements.stating_tags(official)])
    assert set(found.quantities) == {"gamma0"} and set(found.units) == {"linear"}
    assert found.units["linear"] == f"tag {prefix}OUTPUT_BACKSCATTER_EXPRESSION_CONVENTION"
    assert dict(statements.stating_tags({"NOTE": "amplitude", "INPUT_DATA": "amplitude", "LEVEL": "dB"})) == {
        "tag NOTE": "amplitude"
    }


def test_the_file_counts_before_its_folders_and_words_before_rtc():
    folders = [("near", "sigma0"), ("far", "gamma0_db")]
    found = statements.read_statements([("name", "gamma0")], folders)
    assert (found.quantities, found.units) == ({"gamma0": "name"}, {"dB": "far"})
    assert statements.read_statements([("name", "s")], folders).quantities == {"sigma0": "near"}
    assert statements.read_statements([("name", "iw-vv.rtc")], folders).quantities == {"sigma0": "near"}
    assert statements.read_statements([("name", "iw-vv.rtc")]).quantities == {"gamma0": "name"}
    assert statements.read_statements([("name", HYP3.format("xpuned"))]).quantities == {}
    twice = statements.read_statements([("name", "sigma0"), ("tag", "gamma0 dB"), ("unit", "linear")])
    assert set(twice.quantities) == {"sigma0", "gamma0"} and set(twice.units) == {"dB", "linear"}


@pytest.mark.parametrize(
    "names, expected",
    [
        (["s_VH", "s_VV"], ["VH", "VV"]),
        (["IW_VV+VH_VH_dB", "IW_VV+VH_VV_dB"], ["VH", "VV"]),
        (["vv_of_VV_VH", "vh_of_VV_VH"], ["VV", "VH"]),
        (["VV/s_VV", "VH/s_VH"], ["VV", "VH"]),
        (["VH_VV/s_VV", "VV_VH/s_VH"], ["VV", "VH"]),
        (["VH/s_VV"], ["VV"]),
        (["s"], [None]),
    ],
)
def test_the_deciding_polarisation_of_names(names, expected):
    assert statements.deciding_tokens([statements.tokens(name, BOTH) for name in names]) == expected


def test_polarisations_of_bands():
    assert statements.stated_polarisation(["Sigma0_VV_db"], {}, BOTH) == "VV"
    assert statements.stated_polarisation([""], {"POLARIZATION": "vh"}, BOTH) == "VH"
    assert statements.stated_polarisation(["VV/VH"], {"POLARISATIONS": "VV VH", "NOTE": "VV"}, BOTH) is None
    assert statements.stated_polarisation(["VV"], {"polarisation": "VH"}, BOTH) is None


@pytest.mark.parametrize(
    "name, kind",
    [
        (HYP3.format("gpuned")[:-3] + "_inc_map", "incidence angle"),
        (HYP3.format("gpuned")[:-3] + "_inc_map_ell", "incidence angle"),
        (HYP3.format("gpuned")[:-3] + "_ls_map", "mask"),
        (HYP3.format("gpuned")[:-3] + "_dem", "DEM"),
        (HYP3.format("gpuned")[:-3] + "_area", "area"),
        (HYP3.format("gpuned")[:-3] + "_rgb", "RGB"),
        (OPERA + "_mask", "mask"),
        (OPERA + "_VV_mask", "mask"),
        ("OPERA_L2_RTC-S1-STATIC_T137-292318-IW1_20140403_S1A_30_v1.0_local_incidence_angle", "incidence angle"),
        ("._scene_VV", "AppleDouble"),
        (HYP3.format("gpuned"), None),
        (OPERA + "_VH", None),
        ("my_scene_mask", None),
        ("scene_dem", None),
    ],
)
def test_what_is_no_backscatter(name, kind):
    assert statements.ancillary(name) == kind
