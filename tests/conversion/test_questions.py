"""What the converter asks for, which answers it refuses, and where it is mentioned."""

from pathlib import Path

import numpy as np
import pytest

from sarwmix_jax.cli.main import main as command_line
from sarwmix_jax.errors import UserError
from sarwmix_jax.evaluation.reconstruction import load_pretrained
from sarwmix_jax.inference.model import load
from tests.conversion.test_command import FINETUNE, PRETRAIN, rewritten, run
from tests.support import GOLDEN

CONFIG = Path(__file__).parents[2] / "configs" / "finetune_demo.py"


def test_everything_that_follows_from_no_tensor_is_asked_for_at_once(tmp_path, capsys):
    def asked(name, *options) -> str:
        assert run(GOLDEN / f"{name}_tiny.pth", tmp_path / "out", *options) == 2
        output = capsys.readouterr()
        assert output.out == "" and output.err.count("\n") == 1
        return output.err

    statistics = "--statistics bigearthnet_v1|bigearthnet_v2|MEAN_VH,MEAN_VV,STD_VH,STD_VV"
    kind, tiling = "--kind flood|classifier", "--tiling released|two_band"
    heads, norm_pix, group = "--decoder-heads N", "--norm-pix yes|no", "--mix-group N"
    every = (kind, statistics, tiling, heads, norm_pix, group)
    for name, options, wanted in [
        ("finetune", [], [statistics]),
        ("flood", [], [kind, statistics, tiling]),
        ("flood", ["--kind", "flood"], [statistics, tiling]),
        ("flood", ["--kind", "classifier"], [statistics]),
        ("flood", [*FINETUNE, "--kind", "flood"], [tiling]),
        ("pretrain", [], [statistics, heads, norm_pix]),
        ("pretrain", ["--norm-pix", "no"], [statistics, heads]),
        ("pretrain", ["--with-optimizer"], [statistics, heads, norm_pix, group]),
        ("pretrain", [*PRETRAIN, "--with-optimizer"], [norm_pix, group]),
    ]:
        output = asked(name, *options)
        assert [text for text in every if text in output] == [text for text in every if text in wanted], (
            options,
            output,
        )
    assert "batch_size in the file: 4)" in asked("pretrain", "--with-optimizer")
    # a file that cannot be converted is refused before anything is asked
    rewritten(tmp_path / "a.pth", "finetune", lambda model: model.pop("absolute_pos_embed"))
    assert run(tmp_path / "a.pth", tmp_path / "out") == 2
    assert "no tensor absolute_pos_embed" in capsys.readouterr().err


def test_options_of_the_wrong_kind_or_with_invalid_values(tmp_path, capsys):
    for name, options, why in [
        ("finetune", [*FINETUNE, "--norm-pix", "yes"], "--norm-pix is given, but the file is of kind classifier"),
        ("finetune", [*FINETUNE, "--decoder-heads", "4"], "--decoder-heads is given, but the file is of kind classif"),
        ("pretrain", [*PRETRAIN, "--tiling", "released"], "--tiling is given, but the file is of kind pretraining"),
        ("pretrain", [*PRETRAIN, "--mix-group", "4"], "--mix-group has an effect only with --with-optimizer"),
        ("pretrain", [*PRETRAIN, "--with-optimizer", "--mix-group", "0"], "--mix-group 0 is not a number of images"),
        ("pretrain", [*PRETRAIN, "--with-optimizer", "--mix-group", str(10**30)], "0 is not a number of images"),
        ("finetune", [*FINETUNE, "--image-size", "4128"], "--image-size 4128 is larger than 4096"),
        ("finetune", [*FINETUNE, "--image-size", str(10**30)], "is larger than 4096"),
        ("finetune", [*FINETUNE, "--image-size", "0"], "image side 0 is not a multiple of 32"),
        ("pretrain", ["--statistics", "v3"], "--statistics 'v3' is unknown"),
    ]:
        assert run(GOLDEN / f"{name}_tiny.pth", tmp_path / "out", *options) == 2
        assert why in capsys.readouterr().err
    rewritten(tmp_path / "a.pth", "pretrain")
    assert run(tmp_path / "a.pth", tmp_path / "out", *PRETRAIN, "--with-optimizer") == 2
    assert "the file holds no optimiser state" in capsys.readouterr().err


def test_what_does_not_work_without_norm_pix_is_reported_at_once(tmp_path, capsys):
    assert run(GOLDEN / "pretrain_tiny.pth", tmp_path / "out", *PRETRAIN) == 0
    output = capsys.readouterr().out
    assert "will not work without --norm-pix yes|no: sarwmix reconstruct, and model.reconstruct unless" in output
    with pytest.raises(UserError, match="convert its file again with --norm-pix"):
        load_pretrained(tmp_path / "out")
    with pytest.raises(UserError, match="give norm_pix"):
        load(tmp_path / "out").reconstruct(np.full((2, 2, 128, 128), -15.0, np.float32))
    assert run(GOLDEN / "pretrain_tiny.pth", tmp_path / "known", *PRETRAIN, "--norm-pix", "no") == 0
    assert "will not work" not in capsys.readouterr().out
    assert load_pretrained(tmp_path / "known").task.settings.loss.norm_pix is False


@pytest.mark.parametrize("name", ["a.pth", "absent.pt"])
def test_a_pytorch_file_in_place_of_a_checkpoint_names_the_converter(tmp_path, capsys, name):
    rewritten(tmp_path / "a.pth", "finetune")
    with pytest.raises(UserError, match=rf"convert it first \(sarwmix convert \S+{name} FOLDER"):
        load(tmp_path / name)
    for command in (
        ["evaluate", f"--checkpoint={tmp_path / name}", f"--records={tmp_path}", f"--out={tmp_path / 'out'}"],
        [
            *("finetune", f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}"),
            *(f"--config.init_from={tmp_path / name}", f"--config.data.records={tmp_path}"),
        ],
    ):
        assert command_line(command) == 2
        assert "sarwmix convert " in capsys.readouterr().err, command
    assert not (tmp_path / "out").exists() and not (tmp_path / "run").exists()
