"""Files of a record set that are not those of its preparation, and contracts that cannot be right, are refused."""

import copy
import json
import logging
import math
import shutil

import numpy as np
import pytest

from sarwmix_jax.cli.main import main
from sarwmix_jax.data import verification
from sarwmix_jax.data.records import Record
from sarwmix_jax.data.sources import check_contract, open_records
from sarwmix_jax.errors import UserError
from tests.record_sets import write_records
from tests.soak import COUNT, SEED

from .conftest import toy_contract

CHECKSUMS, CONTRACT, INFO = "checksums.json", "contract.json", "dataset_info.json"
SIDE = 16


def records_of(seed, count, prefix):
    rng = np.random.default_rng(seed)
    images = np.stack([rng.normal(-18, 3, (count, SIDE, SIDE)), rng.normal(-11, 3, (count, SIDE, SIDE))], axis=1)
    return [Record(image, f"{prefix}{n}", labels=("forest",) if n % 2 else ()) for n, image in enumerate(images)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two sets of 12 records for training in 3 shards, and 4 for validation; files of the same sizes."""
    folder = tmp_path_factory.mktemp("sets")
    contract = toy_contract(height=SIDE, width=SIDE, classes=("forest", "water"))
    for seed, name in enumerate(("own", "other")):
        splits = {"train": records_of(seed, 12, "t"), "validation": records_of(seed + 9, 4, "v")}
        write_records(folder / name, contract, splits, records_per_shard=4)
    return folder


@pytest.fixture(params=["checked", "unchecked"])
def folder(prepared, tmp_path, request):
    """A set with checksums, and one of an earlier version."""
    shutil.copytree(prepared / "other", tmp_path / "other")
    own = shutil.copytree(prepared / "own", tmp_path / "own")
    if request.param == "unchecked":
        (own / CHECKSUMS).unlink()
    return own


def is_checked(folder):
    return (folder / CHECKSUMS).exists()


def shard(folder, number, split="train", count=3):
    return folder / f"toy-{split}.array_record-{number:05d}-of-{count:05d}"


def content(folder):
    """All that a run reads of a set, after its checks."""
    found = []
    for split in ("train", "validation"):
        source = open_records(folder, split)
        check_contract(source)
        batch = source.read_batch(range(len(source)))
        statistics = None if source.contract.statistics is None else vars(source.contract.statistics)
        facts = (source.contract.classes, source.contract.quantity, source.contract.bands, statistics)
        names = [source.name_of(n) for n in range(len(source))]
        found.append((facts, names, {key: values.tobytes() for key, values in batch.items()}))
    return found


def test_an_untouched_set_is_read_and_an_earlier_one_is_stated_once(folder, caplog, capsys):
    with caplog.at_level(logging.WARNING):
        assert [len(names) for _, names, _ in content(folder)] == [12, 4]
    lines = [line for line in caplog.messages if "unchecked" in line]
    assert len(lines) == (0 if is_checked(folder) else 1)
    assert main(["inspect", str(folder), "--verify"]) == 0
    stated = "all files agree with their SHA-256" if is_checked(folder) else "files are unchecked"
    assert stated in capsys.readouterr().out


def swap(folder):
    first, second = shard(folder, 0), shard(folder, 2)
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)


def double(folder):
    shutil.copy(shard(folder, 0), shard(folder, 1))


def foreign(folder):
    shutil.copy(shard(folder.with_name("other"), 1), shard(folder, 1))


def held_out_for_training(folder):
    shutil.copy(shard(folder, 0, "validation", 1), shard(folder, 1))


def truncate(folder):
    path = shard(folder, 1)
    path.write_bytes(path.read_bytes()[:-1000])


def lower_length(folder):
    fields = json.loads((folder / INFO).read_text())
    split = next(each for each in fields["splits"] if each["name"] == "train")
    split["shardLengths"][1] = str(int(split["shardLengths"][1]) - 1)
    (folder / INFO).write_text(json.dumps(fields))


def lower_all_lengths(folder):
    """Contract and metadata agree with each other."""
    lower_length(folder)
    fields = json.loads((folder / CONTRACT).read_text())
    fields["records"]["train"] -= 1
    fields["statistics"] = None
    (folder / CONTRACT).write_text(json.dumps(fields))


EXCHANGES = (swap, double, foreign, held_out_for_training)


@pytest.mark.parametrize("change", [*EXCHANGES, truncate, lower_length, lower_all_lengths])
def test_a_set_with_other_shards_is_refused(folder, change):
    change(folder)
    if not is_checked(folder) and change in EXCHANGES:
        assert len(content(folder)[0][1]) == 12  # such a set was always read, and it is stated as unchecked
        return
    with pytest.raises(UserError) as caught:
        content(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    if change in EXCHANGES:
        assert "is not the file that the preparation wrote; prepare or copy the records again" in str(caught.value)


def test_one_bit_in_a_shard_is_found_by_the_hash(folder, capsys):
    path = shard(folder, 1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert main(["inspect", str(folder), "--verify"]) == (1 if is_checked(folder) else 0)
    if is_checked(folder):
        assert f"FAILED {path.name} differs from its SHA-256; prepare or copy" in capsys.readouterr().out
    path.unlink()
    assert main(["inspect", str(folder), "--verify"]) == (1 if is_checked(folder) else 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "height is 0, not a number of pixels from 1 to 65536"),
        ({"width": 16.5}, "width is 16.5"),
        ({"height": True}, "height is True"),
        ({"height": 32}, "does not fit contract.json"),
        ({"bands": []}, "bands are"),
        ({"classes": ["forest", "forest"]}, "classes are"),
        ({"classes": "forest"}, "classes are 'forest', not a list of different names"),
        ({"has_valid_pixels": 1}, "has_valid_pixels is 1, not true or false"),
        ({"has_valid_pixels": True}, "does not fit contract.json"),
        ({"source": None}, "source is None, not text"),
        ({"records": {"train": 11, "validation": 4}}, "the contract train 11 records"),
        ({"records": {"train": -12}}, "not a number for each split"),
        ({"statistics_split": "test"}, "which is no split of the set"),
        ({"statistics": {"mean_db": [-18.0], "std_db": [3.0, 3.0]}}, "not one number for each of 2 bands"),
        ({"statistics": {"mean_db": [-18.0, math.nan], "std_db": [3.0, 3.0]}}, "not within -200 to 60 dB"),
        ({"statistics": {"mean_db": [-18.0, -11.0], "std_db": [3.0, 0.0]}}, "not within 1e-06 to 260 dB"),
        ({"statistics": {"mean_db": [-18.0, -1.0], "std_db": [3.0, 3.0]}}, "VV is stated with mean -1 dB"),
        ({"statistics": {"mean_db": [-18.0, -11.0], "std_db": [30.0, 3.0]}}, "VH is stated with mean -18 dB"),
    ],
)
@pytest.mark.parametrize("folder", ["unchecked"], indirect=True)
def test_numbers_that_cannot_be_right_are_refused_without_checksums_too(folder, change, message):
    fields = json.loads((folder / CONTRACT).read_text())
    (folder / CONTRACT).write_text(json.dumps(fields | change))
    with pytest.raises(UserError) as caught:
        content(folder)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", ["checked"], indirect=True)
def test_damaged_checksums_are_one_line(folder):
    for text in (
        "{",
        "[]",
        '{"schema": 2, "files": {}}',
        '{"schema": 1, "files": [1]}',
        '{"schema": 1, "files": {"a": 1}}',
    ):
        (folder / CHECKSUMS).write_text(text)
        with pytest.raises(UserError, match=r"checksums.json cannot be read .*; prepare or copy"):
            open_records(folder, "train")
    known = verification.checksums(folder, {})
    (folder / CHECKSUMS).write_text(known)
    with pytest.raises(UserError, match="stated with 4 records, but was written with None"):
        open_records(folder, "train")


OTHERS = (0, -1, 1, 10**9, 1e30, math.nan, math.inf, "", "x", None, True, [], {}, ["VV", "VH"])


def edited(fields, rng):
    """The same with one value replaced, removed or doubled, or a list in another order, and what was done."""
    fields = copy.deepcopy(fields)
    places = []

    def walk(node, path):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key, [*path, key]))
            if isinstance(node[key], dict | list):
                walk(node[key], [*path, key])

    walk(fields, [])
    node, key, path = places[rng.integers(len(places))]
    kind = rng.integers(4)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node[key], list):
        node[key].reverse()
    elif kind == 2 and isinstance(node[key], int | float):
        node[key] = node[key] * rng.choice([0.5, 2, 1.01, -1])
    else:
        node[key] = OTHERS[rng.integers(len(OTHERS))]
    return fields, f"{'.'.join(map(str, path))} ({kind})"


@pytest.mark.slow
@pytest.mark.damage
def test_random_edits_of_contract_and_metadata_are_refused_or_harmless(folder):
    """With checksums every edit; without, what is silent is listed, and nothing is a traceback."""
    before, rng, counts = content(folder), np.random.default_rng(SEED), {"refused": 0, "harmless": [], "silent": []}
    for number in range(COUNT):
        path = folder / (INFO if number % 4 == 0 else CONTRACT)
        text = path.read_text()
        fields, what = edited(json.loads(text), rng)
        path.write_text(json.dumps(fields))
        try:
            same = content(folder) == before
        except UserError as error:
            assert "\n" not in str(error)
            counts["refused"] += 1
        else:
            counts["harmless" if same else "silent"].append(f"{path.stem} {what}")
        path.write_text(text)
    print(f"\n{'with' if is_checked(folder) else 'without'} checksums, of {COUNT} edits: {counts}")
    if is_checked(folder):
        assert counts == {"refused": COUNT, "harmless": [], "silent": []}
    assert counts["refused"] > COUNT // 2
