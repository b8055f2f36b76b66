"""Logs as both systems write them, made for tests."""

import json

PRETRAINING = {
    "mask": {"ratio": 0.5},
    "model": {"bands": ["VH", "VV"]},
    "init_from": None,
    "data": {"split": "train"},
}
FINETUNING = {
    "task": "multilabel",
    "model": {"bands": ["VH", "VV"]},
    "init_from": None,
    "data": {"label_fraction": 0.5},
}


def start(step, time, settings, devices=2, dataset="bigearthnet_v1"):
    """The line of a start."""
    source = {"split": "train", "sets": [{"folder": "records", "name": dataset}]}
    return {
        "event": "start",
        "time": time,
        "step": step,
        "devices": ["gpu"] * devices,
        "settings": settings,
        "source": source,
    }


def line(event, step, time, **values):
    """A line of steps; ten steps are an epoch."""
    return {"event": event, "time": time, "step": step, "epoch": step / 10, **values}


def pretraining(epochs=4, end=True):
    """A pretraining run that was started twice: at step 0, and again from step 10 after step 20 was logged."""
    lines = [start(0, 1000.0, PRETRAINING)]
    lines += [line("train", 10 * e, 1000 + 1800.0 * e, loss=3 - e, learning_rate=1e-3) for e in (1, 2)]
    lines += [{"event": "begin", "time": 90000.0, "from": "own checkpoint"}, start(10, 90001.0, PRETRAINING)]
    for e in range(2, epochs + 1):
        now = 90001 + 3600.0 * (e - 1)
        lines.append(line("train", 10 * e, now, loss=4 - e / 2, learning_rate=1e-3, images_per_second=100.0 * e))
        lines.append(line("validation", 10 * e, now, loss=4.5 - e / 2, loss_per_band=[4.0 - e / 2, 5.0 - e / 2]))
        lines.append(line("probe", 10 * e, now, neighbours=20.0, ap_macro=0.1 * e))
    return [*lines, {"event": "end", "time": now, "step": 10 * epochs, "interrupted": None}] if end else lines


def finetuning(origin, epoch, ap, step=40, kind="pretraining"):
    """A finetuning run from a checkpoint, whose second of three validations is selected."""
    scores = [(ap - 0.1, ["weighted"]), (ap, ["weighted"]), (ap - 0.05, ["lowest_loss"])]
    lines = [
        {
            "event": "begin",
            "time": 0.0,
            "checkpoint": origin,
            "at_step": step,
            "at_epoch": epoch,
            "kind": kind,
            "taken": 9,
            "kept": {},
            "unused": [],
        },
        start(0, 1.0, FINETUNING | {"init_from": origin}, devices=1),
    ]
    for number, (value, best) in enumerate(scores, start=1):
        lines.append(line("train", 10 * number, 100.0, loss=1.0 / number, learning_rate=1e-3))
        lines.append(line("validation", 10 * number, 100.0, loss=0.5, ap_macro=value, f1_macro=value / 2, best=best))
    return lines


def published(epochs=3, **scores):
    """Lines of a `log.txt`."""
    return [
        {"train_lr": 1e-4 * e, "train_loss": 1 / (e + 1), "test_loss": 2 / (e + 1), "epoch": e, "n_parameters": 88}
        | {f"test_{name}": value + 0.1 * e for name, value in scores.items()}
        for e in range(epochs)
    ]


def write(path, lines, more=""):
    """Writes a log; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in lines) + more)
    return str(path)
