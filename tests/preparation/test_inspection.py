import dataclasses

import matplotlib.image
import pytest

from sarwmix_jax.cli.main import main
from sarwmix_jax.data.records import CONTRACT_FILE, read_contract
from sarwmix_jax.preparation.inspection import inspect
from sarwmix_jax.preparation.writer import write_file
from tests.data.conftest import toy_contract, toy_records
from tests.data.samples import needs_shared_data, write_opera_records
from tests.record_sets import write_records


@pytest.fixture
def run(capsys):
    def run(*arguments):
        return main(["inspect", *map(str, arguments)]), capsys.readouterr()

    return run


def test_a_labelled_set_is_counted_checked_and_drawn(run, make_source, tmp_path):
    folder = make_source(30).folder
    code, output = run(folder, f"--out={tmp_path / 'sheet.png'}", "--samples=5")
    assert code == 0, output.out
    lines = output.out.splitlines()
    assert "records: train 30, validation 30; 60 in all" in lines
    assert any(line.split() == ["forest", "10", "(33.3%)", "10", "(33.3%)"] for line in lines)
    assert any(line.startswith("published bigearthnet_v2 VV") and "-12.5144    5.0019" in line for line in lines)
    assert "all checks passed" in lines
    picture = matplotlib.image.imread(tmp_path / "sheet.png")
    assert picture.shape[1] == 1760 and picture.std() > 0.1


@needs_shared_data
def test_real_records_without_labels_are_drawn(run, tmp_path):
    write_opera_records(tmp_path / "opera")
    code, output = run(tmp_path / "opera", f"--out={tmp_path / 'sheet.png'}")
    assert code == 0 and "all checks passed" in output.out
    assert (tmp_path / "sheet.png").stat().st_size > 100_000
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_broken_promise_is_found(run, make_source, tmp_path):
    folder = make_source(30).folder
    contract = read_contract(folder)
    changed = dataclasses.replace(contract.statistics, mean_db=(-10.0, -15.0))
    write_file(folder / CONTRACT_FILE, dataclasses.replace(contract, statistics=changed).to_json())
    code, output = run(folder, f"--out={tmp_path / 'sheet.png'}")
    assert code == 1 and "2 checks" in output.err
    assert "FAILED split train: mean_db of VH is -21.812500, the contract states -10.000000" in output.out


def test_swapped_bands_and_linear_values_are_found(tmp_path):
    swapped = [dataclasses.replace(record, image=record.image[::-1]) for record in toy_records(10)]
    write_records(tmp_path / "swapped", toy_contract(), {"train": swapped})
    (failure,) = inspect(tmp_path / "swapped").failures
    assert "the bands are swapped" in failure
    write_records(tmp_path / "linear", toy_contract(unit="linear"), {"train": toy_records(10)})
    (failure,) = inspect(tmp_path / "linear").failures
    assert "values are linear, expected dB" in failure


def test_mistakes_are_one_line(run, tmp_path):
    for arguments, words in (
        ((), "RECORDS is not given"),
        ((tmp_path / "nothing",), "no record set at"),
        ((tmp_path, tmp_path / "second"), "does not understand"),
    ):
        code, output = run(*arguments)
        assert code == 2 and output.out == "" and output.err.count("\n") == 1
        assert output.err.startswith("error: ") and words in output.err
