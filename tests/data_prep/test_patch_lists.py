"""Lists of patches of BigEarthNet: what names nothing, names wrongly, or leads out of the root is refused."""

import pyarrow as pa
import pyarrow.parquet
import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation.patch_lists import exclude, read_exclusions, read_lists, read_metadata

S1 = [f"S1A_IW_GRDH_1SDV_20170613T165043_33UUP_{number}_40" for number in range(4)]
S2 = [f"S2A_MSIL2A_20170613T101031_{number}_40" for number in range(4)]


@pytest.fixture
def rows(tmp_path):
    lines = [f"{s1},{s2},Austria,Summer\n" for s1, s2 in zip(S1, S2, strict=True)]
    (tmp_path / "names.csv").write_text("s1_name,s2_name,country,season\n" + "".join(lines))
    (tmp_path / "train.csv").write_text("\n".join(S2))
    return read_lists([f"train={tmp_path / 'train.csv'}"], tmp_path / "names.csv", None)


@pytest.mark.parametrize(
    "text, left",
    [
        (S2[1], [0, 2, 3]),
        (S1[1] + "\n", [0, 2, 3]),
        ("".join(f"{name} \n" for name in S2[:3]), [3]),
        ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_0_40\n", None),
        ("".join(f"{number},{name}\n" for number, name in enumerate(S2)), None),
        (f"{S2[0]}/{S2[0]}_B02.tif\n", None),
        ("s1_name\n", None),
    ],
)
def test_a_list_that_excludes_nothing_is_refused(rows, tmp_path, text, left):
    path = tmp_path / "snow.csv"
    path.write_text(text)
    if left is None:
        with pytest.raises(UserError, match=r"--exclude snow=\S+ names none of the 4 patches"):
            read_exclusions([f"snow={path}"], rows)
    else:
        kept, counts = exclude(rows, read_exclusions([f"snow={path}"], rows))
        assert kept["patch_id"].to_pylist() == [S2[number] for number in left]
        assert counts == {"snow": 4 - len(left)}


def test_flags_exclude_and_reasons_are_given_once(rows, tmp_path):
    flags = {"contains_seasonal_snow": [True, False, False, False], "contains_cloud_or_shadow": [False] * 4}
    path, again = tmp_path / "flags.parquet", tmp_path / "snow.csv"
    pyarrow.parquet.write_table(pa.table({"s1_name": S1, **flags}), path)
    again.write_text(S1[0])
    lists = read_exclusions([str(path), f"seen={again}"], rows)  # the second names what the first has taken
    kept, counts = exclude(rows, lists)
    assert kept["s1_name"].to_pylist() == S1[1:] and counts == {"snow": 1, "cloud or shadow": 0, "seen": 0}
    with pytest.raises(UserError, match="the reason 'snow' is given twice"):
        read_exclusions([str(path), f"snow={again}"], rows)
    with pytest.raises(UserError, match="the flags of a parquet file state the reason; leave out snow="):
        read_exclusions([f"snow={path}"], rows)
    pyarrow.parquet.write_table(pa.table({"s1_name": S1, **flags, "contains_seasonal_snow": [1, 0, 0, 0]}), path)
    with pytest.raises(UserError, match="'contains_seasonal_snow' holds int64, expected true and false"):
        read_exclusions([str(path)], rows)


@pytest.mark.parametrize("name", ["../../outside", "/etc/S1A", "S1A_\u00fc", ".", ""])
def test_names_that_lead_out_of_the_root_are_refused(tmp_path, name):
    table = {"patch_id": [S2[0]], "s1_name": [name], "split": ["train"], "country": ["Austria"]}
    pyarrow.parquet.write_table(pa.table(table | {"labels": [["Pastures"]]}), tmp_path / "metadata.parquet")
    with pytest.raises(UserError, match=r"row 1: s1_name '.*' is not the name of a patch"):
        read_metadata([str(tmp_path / "metadata.parquet")])
    (tmp_path / "names.csv").write_text(f"s1_name,s2_name,country\n{name},{S2[0]},Austria\n")
    (tmp_path / "train.csv").write_text(S2[0])
    with pytest.raises(UserError, match=r"row 1: s1_name '.*' is not the name of a patch"):
        read_lists([f"train={tmp_path / 'train.csv'}"], tmp_path / "names.csv", None)


@pytest.mark.parametrize(
    "labels, expected",
    [
        ("['Arable land', 'Pastures']", ["Arable land", "Pastures"]),
        ("['Arable land' 'Pastures']", ["Arable land", "Pastures"]),
        ('["Land principally occupied by agriculture, with significant areas of natural vegetation"]', None),
        ("Pastures", UserError),
        ("", UserError),
        ("['Pastures', 3]", UserError),
    ],
)
def test_labels_in_a_csv_are_lists(tmp_path, labels, expected):
    path = tmp_path / "train.csv"
    quoted = labels.replace('"', '""')
    path.write_text(f'patch_id,labels,a,b,s1_name\n{S2[0]},"{quoted}",0,0,{S1[0]}\n')
    if expected is UserError:
        with pytest.raises(UserError, match="in the 2nd column are not a list such as"):
            read_metadata([f"train={path}"])
    else:
        wanted = expected or ["Land principally occupied by agriculture, with significant areas of natural vegetation"]
        assert read_metadata([f"train={path}"])["labels"].to_pylist() == [wanted]


def test_splits_that_contradict_their_file_and_columns_before_the_first_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"patch_id,labels,a,split,s1_name\n{S2[0]},['Pastures'],0,test,{S1[0]}\n")
    assert read_metadata([str(path)])["split"].to_pylist() == ["test"]
    with pytest.raises(UserError, match="has a column 'split' that is not always 'train'"):
        read_metadata([f"train={path}"])
    path.write_text(f"{S2[0]},{S1[0]}\n")
    with pytest.raises(UserError, match="no column -1; choose --s1-column"):
        read_lists([f"train={path}"], None, -1)
