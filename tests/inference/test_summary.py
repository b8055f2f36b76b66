"""What `print(model)`, `help(sarwmix_jax.load)` and `dir(sarwmix_jax)` show."""

import doctest
import inspect
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import sarwmix_jax
from sarwmix_jax.checkpoints.loading import Loaded, load_parameters, model_of
from sarwmix_jax.checkpoints.store import describe
from sarwmix_jax.conversion.convert import ConversionRequest, convert, write
from sarwmix_jax.conversion.hints import Hints
from sarwmix_jax.facts.bands import STATISTICS
from sarwmix_jax.inference.model import LoadedModel
from sarwmix_jax.inference.summary import summary
from sarwmix_jax.models.state import abstract_model
from sarwmix_jax.settings.model import published
from tests.support import GOLDEN, V2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the golden classifier, converted, as `runs/benv2_finetuned`."""
    folder = tmp_path_factory.mktemp("work")
    request = ConversionRequest(GOLDEN / "finetune_tiny.pth", Hints(statistics="bigearthnet_v2"))
    write(convert(request), folder / "runs" / "benv2_finetuned")
    return folder


def test_print_of_a_converted_classifier(folder, monkeypatch):
    monkeypatch.chdir(folder)
    expected = """\
SAR-W-MixMAE, classifier checkpoint
  size          embed_dim 8, depths (1, 1, 2, 1), num_heads (1, 2, 4, 8)
  parameters    103,446, 95,254 of them trained
  input         VH, VV in dB, 128 x 128 px
  standardised  with bigearthnet_v2: mean -19.20, -12.51 dB, standard deviation 5.45, 5.00 dB
  gives         encode(images_db)           (batch, 64) features
                encode_pyramid(images_db)   maps of (batch) 32 x 32 x 8, 16 x 16 x 16, 8 x 8 x 32, 4 x 4 x 64
                classify(images_db)         (batch, 19) logits
  folder        runs/benv2_finetuned
  origin        converted from finetune_tiny.pth (sha256 70201a126928, not a released file), 50 epochs
  classes       19: Urban fabric; Industrial or commercial units; Arable land; Permanent crops; Pastures; ..."""
    model = sarwmix_jax.load("runs/benv2_finetuned")
    assert str(model) == repr(model) == expected
    others = str(sarwmix_jax.load("runs/benv2_finetuned", statistics="bigearthnet_v1"))
    assert "with bigearthnet_v1 instead of its own: mean -19.23, -12.60 dB" in others


def test_the_example_of_load_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (example,) = [e for e in doctest.DocTestFinder().find(sarwmix_jax.load, "load") if e.examples]
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(example)
    assert runner.summarize(verbose=False) == (0, 8)


def test_help_names_every_argument_method_and_error():
    text = inspect.getdoc(sarwmix_jax.load)
    public = [name for name in dir(LoadedModel) if not name.startswith("_")]
    methods = [name for name in public if callable(getattr(LoadedModel, name))]
    assert methods == ["classify", "encode", "encode_pyramid", "flood", "reconstruct"]
    for word in (*inspect.signature(sarwmix_jax.load).parameters, *methods, "VH", "dB", "UserError", *STATISTICS):
        assert word in text, word


SHOWN = {  # parameters: spec section 2, position tables counted
    ("pretraining", None): (
        "113,686,264, 113,547,000 of",
        "reconstruct(images_db)      .image_db, .prediction (batch, 2,",
    ),
    ("classifier", 19): ("86,901,515, 86,770,443 of", "classify(images_db)         (batch, 19) logits"),
    ("flood", 2): ("parameters    86,8", "flood(before_db, after_db)  (batch, 2) logits; any size from one tile up"),
}


@pytest.mark.parametrize(("kind", "classes"), SHOWN)
def test_published_sizes_and_kinds(kind, classes):
    settings = published("base")
    _, params, fixed = abstract_model(*model_of(kind, settings, classes))
    source = {"file": "a.pth", "sha256": "0123456789abcdef", "verified": True, "epochs": 64}
    description = describe(kind, settings, V2, "bigearthnet_v2", classes=classes, source=source)
    text = summary(Loaded(params, fixed, description, 7), V2, Path("runs/a"))
    assert text.startswith(f"SAR-W-MixMAE, {kind} checkpoint\n  size          base (published size)\n")
    for part in (*SHOWN[kind, classes], "(sha256 0123456789ab, a released file), 64 epochs", "runs/a, step 7\n"):
        assert part in text
    assert ("without names" in text) == (classes is not None)
    assert text.count("\n") <= 11 and all(len(line) <= 120 for line in text.splitlines())


def test_a_run_names_its_records_and_epoch(tmp_path):
    with tarfile.open(GOLDEN / "first_version_run.tar.xz") as archive:
        archive.extractall(tmp_path / "run", filter="data")
    loaded = load_parameters(tmp_path / "run")
    text = summary(loaded, loaded.statistics, tmp_path / "run")
    assert "run, step 4\n" in text and "a run on synthetic_scenes (" in text and text.endswith(" epochs")
    assert "with those of its training records: mean" in text


def test_the_top_is_small_and_light():
    assert dir(sarwmix_jax) == ["UserError", "__version__", "load"]
    code = "import sys, sarwmix_jax; sys.exit(' '.join({'jax', 'numpy', 'flax'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == ""
