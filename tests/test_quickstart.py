"""The notebook docs/quickstart.ipynb: what is stored in it, and that it runs as it stands."""

import json
import os
import re
import shutil

import pytest

from tests.support import GOLDEN

DOCS = GOLDEN.parents[1] / "docs"
NOTEBOOK = DOCS / "quickstart.ipynb"
WEIGHTS = "pretrain_tiny.pth"


def outputs(cells: list) -> list:
    """Outputs of all cells that were run, without progress and warnings."""
    found = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    return [output for output in found if output.get("name") != "stderr"]


def figures(cells: list) -> list[dict]:
    return [output["data"] for output in outputs(cells) if "image/jpeg" in output.get("data", {})]


def average_precisions(cells: list) -> list[float]:
    """As the probe's cell prints them: of the embeddings, of plain statistics, by chance."""
    text = "".join("".join(output["text"]) for output in outputs(cells) if output["output_type"] == "stream")
    return [float(value) for value in re.findall(r"macro average precision ([\d.]+)", text)]


def test_what_is_stored_was_run_from_top_to_bottom():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert NOTEBOOK.stat().st_size < 300_000
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert not [output for output in outputs(cells) if output["output_type"] == "error"]
    assert len(figures(cells)) == 3 and len(average_precisions(cells)) == 3
    assert "stderr" not in {output.get("name") for cell in cells for output in cell.get("outputs", ())}


def test_the_text_states_which_weights_drew_the_figures():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert WEIGHTS in "".join(cells[0]["source"]) and "never trained" in "".join(cells[0]["source"])
    printed = json.dumps(outputs(cells))
    assert f"weights: ../tests/golden/{WEIGHTS}" in printed and f"converted from {WEIGHTS}" in printed
    for fault in ("/tmp", "/home", "/root", "/work"):  # no machine's paths
        assert fault not in json.dumps(cells), fault


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the libraries that run notebooks
def test_it_runs_and_gives_what_is_stored(tmp_path):
    import nbclient
    import nbformat

    for folder in ("docs", "tests/golden"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(GOLDEN / WEIGHTS, tmp_path / "tests" / "golden")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    stored = json.loads(json.dumps(notebook["cells"]))
    client = nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path / "docs")}})
    client.execute(env=os.environ | {"PYTHONPATH": str(DOCS.parent)})
    assert len(figures(notebook["cells"])) == len(figures(stored)) == 3
    assert average_precisions(notebook["cells"]) == pytest.approx(average_precisions(stored), abs=0.02)
    assert (tmp_path / "docs" / "quickstart_output" / "pretrain_tiny" / "checkpoints").is_dir()
