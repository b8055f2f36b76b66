"""The steps of a study and the settings of their runs."""

from pathlib import Path

import pytest

from sarwmix_jax.errors import UserError
from sarwmix_jax.settings.recipes import read_config
from sarwmix_jax.settings.study import resolve_study
from sarwmix_jax.studies.plan import Step, finetuning_stages, plan, pretraining_settings
from tests.studies.studies import study

OUT = Path("out")
GRID = study(
    variants=("weighted", "off weighting.mode=off"),
    checkpoints=("released runs/converted",),
    fractions=(0.5, 1.0),
    tries=("usual", "head_first head.frozen_encoder=True optimizer.base_lr=0.5 then optimizer.base_lr=0.25"),
    measured=("finetuned", "probe", "baseline", "reconstruction"),
)


def test_the_grid_is_complete_and_every_step_comes_after_those_that_it_needs():
    steps = plan(GRID)
    names = [step.name for step in steps]
    assert len(names) == len(set(names)) == 1 + 3 * (2 + 1 + 4 + 4 * 2 * 2) + (2 * 3 + 1)
    for number, step in enumerate(steps):
        assert set(step.needs) <= set(names[:number]), step.name
    by_name = {step.name: step for step in steps}
    assert by_name["finetune/off/0.5/head_first/seed2"].needs == ("scenes", "pretrain/off/seed2")
    assert by_name["finetune/released/1/usual/seed1"].needs == ("scenes",)
    assert "reconstruct/released/seed0" in names and "reconstruct/released/seed1" not in names


def test_a_variant_changes_what_it_names_alone():
    weighted, off = (pretraining_settings(GRID, OUT, name, 2) for name in ("weighted", "off"))
    assert (weighted.weighting.mode, off.weighting.mode) == ("per_channel", "off")
    assert (off.seed, off.data.records) == (2, ("out/scenes/records",))


def test_stages_start_from_each_other_and_the_first_from_the_initialisation():
    step = Step("finetune", (), "off", 0.5, 2, "head_first")
    head, whole = finetuning_stages(GRID, OUT, step)
    assert (head.init_from, head.head.frozen_encoder, head.optimizer.base_lr) == ("out/pretrain/off/seed2", True, 0.5)
    assert whole.init_from == "out/finetune/off/0.5/head_first/seed2/stage0"
    assert (whole.head.frozen_encoder, whole.optimizer.base_lr) == (False, 0.25)
    for settings in (head, whole):
        assert (settings.seed, settings.data.fraction_seed, settings.data.label_fraction) == (2, 2, 0.5)
    starts = {
        name: finetuning_stages(GRID, OUT, Step("finetune", (), name, 1.0, 0, "usual"))[0].init_from
        for name in ("random", "released")
    }
    assert starts == {"random": None, "released": "runs/converted"}


@pytest.mark.parametrize("samples", [31, 1966])
def test_the_number_of_optimiser_steps_can_be_the_same_for_all_fractions(samples):
    """Of a recipe with 40 epochs, one for warm-up; a try with a longer schedule has more steps."""
    longer = "longer optimizer.schedule_epochs=160 optimizer.stop_after_epochs=160"
    fixed = study(tries=("usual", longer), finetuning_steps=400)
    per_epoch = samples // 16
    for name, steps in (("usual", 400), ("longer", 1600)):
        (settings,) = finetuning_stages(fixed, OUT, Step("finetune", (), "random", 0.1, 0, name), samples)
        optimizer = settings.optimizer
        assert optimizer.schedule_epochs * per_epoch == pytest.approx(steps)
        assert optimizer.stop_after_epochs * per_epoch == pytest.approx(steps)
        assert optimizer.warmup_epochs * per_epoch == pytest.approx(10)


@pytest.mark.parametrize("place", ["study_labels", "study_weighting", "study_bigearthnet"])
@pytest.mark.parametrize("form", ["", ":short", ":v1"])
def test_the_runs_of_every_shipped_study_have_settings(place, form):
    """Those of every step, as they will be used."""
    if (form == ":v1") != (place == "study_bigearthnet") and form:
        with pytest.raises(UserError, match="is unknown; use"):
            read_config([f"--config={place}{form}"])
        return
    shipped = resolve_study(read_config([f"--config={place}{form}", "--config.records=records"]))
    steps = plan(shipped)
    assert {step.kind for step in steps} >= {"pretrain", "probe", "baseline"}
    for step in steps:
        if step.kind == "pretrain":
            pretraining_settings(shipped, OUT, step.start, step.seed)
        elif step.kind == "finetune":
            finetuning_stages(shipped, OUT, step)


def test_a_recipe_for_another_task_is_refused():
    with pytest.raises(UserError):
        pretraining_settings(study(pretraining="finetune_demo", variants=("a",)), OUT, "a", 0)
    with pytest.raises(UserError, match="the study's recipe demo has no setting"):
        finetuning_stages(study(finetuning="demo"), OUT, Step("finetune", (), "random", 1.0, 0, "recipe"))
