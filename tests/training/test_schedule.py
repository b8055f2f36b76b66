from sarwmix_jax.settings.sections import (
    CheckpointSettings,
    LogSettings,
    OptimizerSettings,
    PretrainingSettings,
    ValidationSettings,
)
from sarwmix_jax.training.optimizer import Schedule


def schedule(steps_per_epoch=10, log=None, checkpoint=None, validation=None, **optimizer):
    settings = PretrainingSettings(
        optimizer=OptimizerSettings(**optimizer),
        checkpoint=checkpoint or CheckpointSettings(),
        log=log or LogSettings(),
        validation=validation or ValidationSettings(),
    )
    return Schedule(steps_per_epoch, settings)


def due(question, steps):
    return [step for step in range(1, steps + 1) if question(step)]


def test_end_is_the_earlier_of_epochs_and_steps():
    assert schedule().total_steps == 640
    assert schedule(stop_after_steps=7).total_steps == 7
    assert schedule(stop_after_epochs=0.25).total_steps == 3
    assert schedule(stop_after_epochs=0.3).total_steps == 3


def test_checkpoints_every_so_many_epochs_at_milestones_and_at_the_end():
    checkpoint = CheckpointSettings(every_epochs=2.5, powers_of_two=False, at_epochs=(0.3, 4.0))
    assert due(schedule(checkpoint=checkpoint, stop_after_epochs=8.0).checkpoint_due, 80) == [3, 25, 40, 50, 75, 80]


def test_milestones_are_powers_of_two_epochs():
    assert sorted(schedule().milestones()) == [10, 20, 40, 80, 160, 320, 640]
    assert schedule(checkpoint=CheckpointSettings(powers_of_two=False)).milestones() == frozenset()


def test_parts_of_epochs_that_are_not_whole_steps():
    checkpoint = CheckpointSettings(every_epochs=1 / 3, powers_of_two=False)
    assert due(schedule(checkpoint=checkpoint, stop_after_epochs=1.0).checkpoint_due, 10) == [3, 7, 10]


def test_logs_first_every_and_last():
    run = schedule(log=LogSettings(every_steps=4), stop_after_steps=10)
    assert due(lambda step: run.log_due(step, 3), 10) == [3, 4, 8, 10]


def test_validation_every_epoch_and_last():
    run = schedule(validation=ValidationSettings(every_epochs=2.0), stop_after_epochs=5.0)
    assert due(run.validation_due, 50) == [20, 40, 50]
