"""Files that a kill, a full disk or a fault has broken are noticed at the next start, in one line."""

import json
import shutil

import pytest

from sarwmix_jax.data.pairs import FILE_NAME, open_pairs
from sarwmix_jax.data.verification import CHECKSUMS_FILE, checksums, read_checksums
from sarwmix_jax.errors import UserError
from sarwmix_jax.studies.claims import CLAIM
from sarwmix_jax.studies.folder import DESCRIPTION, FAILURE, RESULT
from sarwmix_jax.studies.run import run_steps
from sarwmix_jax.training.labelled import write_samples
from tests.studies.studies import PLAIN, opened
from tests.training.conftest import pairs  # noqa: F401  # a fixture

BROKEN = pytest.mark.parametrize("content", [b"", b'{"rows": [', b"\0\0\0", b"[]", b'{"rows": 1, "minutes": 1}'])


class Named(list):
    def name_of(self, index):
        return self[index]


@BROKEN
def test_a_list_of_samples_is_written_again_with_one_line_once(tmp_path, capsys, content):
    place = tmp_path / "samples.json"
    place.write_bytes(content)
    for _ in range(2):
        write_samples(tmp_path, ["own"], [Named("ba")], [], replace=False)
    if content[-1:] in (b"]", b"}"):  # JSON: left as it is
        assert place.read_bytes() == content and not capsys.readouterr().err
    else:
        assert json.loads(place.read_bytes()) == {"own": {"training": ["a", "b"], "held_out": []}}
        assert capsys.readouterr().err.splitlines() == [f"{place} is damaged; it is written again"]


def test_an_index_of_pairs_that_was_cut_after_a_line_is_refused(pairs, tmp_path):  # noqa: F811
    folder = shutil.copytree(pairs, tmp_path / "pairs")
    shards = {name: (facts["records"], "") for name, facts in read_checksums(folder).items() if "records" in facts}
    (folder / CHECKSUMS_FILE).write_text(
        checksums(folder, shards)
    )  # as a preparation writes them: of the index as well
    assert len(open_pairs(folder, "train")) == 8
    place = folder / FILE_NAME
    place.write_text("".join(place.read_text().splitlines(keepends=True)[:5]))
    with pytest.raises(UserError, match=f"{FILE_NAME} was changed after the preparation"):
        open_pairs(folder, "train")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study whose steps are done."""
    folder = opened(tmp_path_factory.mktemp("studies") / "study", **PLAIN | {"seeds": (0,)})
    assert run_steps(folder, folder.steps) == 0
    return folder


@BROKEN
def test_a_damaged_result_of_a_study_is_made_again_with_one_line_once(study, capsys, content):
    place = study.at("baseline/seed0") / RESULT
    before = json.loads(place.read_text())["rows"]
    place.write_bytes(content)
    with pytest.raises(UserError, match=rf"{RESULT} is damaged \(.*\); start the study, and the step is done again"):
        study.results()
    capsys.readouterr()
    for _ in range(2):
        assert run_steps(study, study.steps) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert lines == ["the result of baseline/seed0 is damaged and was removed; the step is done again"]
    assert json.loads(place.read_text())["rows"] == before


def test_other_damaged_files_of_a_study_are_one_line_each(study, tmp_path):
    (study.at("baseline/seed0") / RESULT).rename(tmp_path / RESULT)
    (step,) = (step for step in study.steps if step.kind == "baseline")
    for content, state in ((b"", "failed: the reason is lost"), (b"\xff\n", "failed: \N{REPLACEMENT CHARACTER}")):
        (study.at(step) / FAILURE).write_bytes(content)
        assert study.state(step) == state
    (study.at(step) / CLAIM).write_bytes(b"{")
    with pytest.raises(UserError, match=rf"{CLAIM} cannot be read .*; if no process works there, remove this file"):
        run_steps(study, study.steps)
    for name in (CLAIM, FAILURE):
        (study.at(step) / name).unlink()
    (tmp_path / RESULT).rename(study.at(step) / RESULT)
    whole = (study.path / DESCRIPTION).read_bytes()
    for content in (b"", b"{}", b"[]", b'{"settings": 1}', whole[: len(whole) // 2]):
        (study.path / DESCRIPTION).write_bytes(content)
        with pytest.raises(UserError, match=f"{DESCRIPTION} cannot be read or written"):
            opened(study.path, **PLAIN | {"seeds": (0,)})
    (study.path / DESCRIPTION).write_bytes(whole)
