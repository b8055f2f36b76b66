"""Damage in checkpoints is noticed wherever it is, or changes nothing."""

import asyncio
import json
import logging
import shutil
import signal
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sarwmix_jax.checkpoints import integrity
from sarwmix_jax.checkpoints.loading import load_parameters, verify
from sarwmix_jax.checkpoints.reading import Reader
from sarwmix_jax.checkpoints.restore import previous_run, restore_latest
from sarwmix_jax.checkpoints.store import Checkpoints, describe
from sarwmix_jax.cli.main import main
from sarwmix_jax.errors import UserError
from sarwmix_jax.facts.bands import BandStatistics
from sarwmix_jax.processes import Terminated, raised_signals
from sarwmix_jax.settings.config import as_json
from sarwmix_jax.settings.model import ModelSettings
from sarwmix_jax.settings.sections import PretrainingSettings
from tests.soak import COUNT, SEED, flipped, places

# tensorstore's threads report to an event loop that Orbax has already closed (see `training.logs`)
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

STATISTICS = BandStatistics((-19.0, -12.0), (5.0, 5.0))
SETTINGS = as_json(PretrainingSettings())


def state_of(step):
    rng = np.random.default_rng(step)
    arrays = {name: jnp.asarray(rng.normal(size=(48, 48)), jnp.float32) for name in ("a", "b")}
    return {
        "params": {"encoder": arrays},
        "fixed": {"encoder": {"position": jnp.asarray(rng.normal(size=(9, 8)), jnp.bfloat16)}},
        "opt_state": {"mu": jax.tree.map(lambda x: x * 0.5, arrays), "count": jnp.asarray(step, jnp.int32)},
    }


def description_of(step):
    progress = {"step": step, "mix_group": 4}
    return describe("pretraining", ModelSettings(), STATISTICS, "x", settings=SETTINGS, progress=progress)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(folder)
    for step in (1, 2):
        checkpoints.save(step, state_of(step), description_of(step))
    checkpoints.close()
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def answer(folder):
    """What a restart, a reader and the verification make of step 2: `noticed` by which, in this order."""
    checkpoints = Reader(folder)
    restored = restore_latest(checkpoints, state_of(0))
    assert restored.description == json.loads(json.dumps(description_of(restored.step)))
    assert bits(restored.state) == bits(state_of(restored.step))
    previous = previous_run(folder)
    assert previous.progress == {"step": previous.step, "mix_group": 4} and previous.settings == SETTINGS
    try:
        loaded = load_parameters(folder)
    except UserError as error:
        assert "\n" not in str(error) and str(folder / "2") in str(error)
        refused = True
    else:
        assert bits(loaded.params) == bits(state_of(2)["params"]) and bits(loaded.fixed) == bits(state_of(2)["fixed"])
        refused = False
    damage = [found.damage is not None for found in verify(folder)]
    assert damage[0] is False and damage[1] >= (restored.step == 1)
    return "".join(
        name if noticed else "-" for name, noticed in zip("rlv", (restored.step == 1, refused, damage[1]), strict=True)
    )


def largest(folder):
    return max((path for path in folder.rglob("d/*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_an_intact_checkpoint_agrees(folder, capsys):
    assert main(["checkpoints", "verify", str(folder.parent)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{folder}/{n}: 6 arrays and the description agree with their checksums" for n in (1, 2)]
    assert main(["checkpoints", "verify", str(folder / "1")]) == 0
    assert capsys.readouterr().out.splitlines() == lines[:1]


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("params", "params encoder/[ab] differs from its checksum"),
        ("optimizer", "optimizer mu/[ab] differs from its checksum"),
        ("description", "description differs|column"),
        ("checksums", "differ"),
    ],
)
def test_one_flipped_bit_is_noticed(folder, caplog, item, reason):
    place = largest(folder / "2" / item) if item in ("params", "optimizer") else folder / "2" / item / "metadata"
    with flipped(place, place.stat().st_size // 2, 3):
        # the optimiser's state is not read for inference
        assert answer(folder) in (("r-v",) if item == "optimizer" else ("rlv",))
        assert main(["checkpoints", "verify", str(folder), "--step", "2"]) == 1
    assert "checkpoint at step 2 cannot be used" in caplog.text
    assert answer(folder) == "---"


@pytest.mark.parametrize("item", ["checksums", "checksums/metadata", "optimizer"])
def test_a_lost_part_is_noticed(folder, item):
    path = folder / "2" / item
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert answer(folder) in ("rlv", "r-v")
    if item == "checksums":
        assert [found.damage for found in verify(folder)] == [None, "its checksums are missing"]


def test_arrays_of_another_checkpoint_are_noticed(folder):
    shutil.rmtree(folder / "2" / "params")
    shutil.copytree(folder / "1" / "params", folder / "2" / "params")
    with pytest.raises(UserError, match="params encoder/a differs from its checksum; use another"):
        load_parameters(folder)


def of_earlier_version(folder):
    for step in ("1", "2"):
        shutil.rmtree(folder / step / "checksums")
        file = folder / step / "description" / "metadata"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 2}))


def test_checkpoints_of_earlier_versions_are_unchecked_and_this_is_stated_once(folder, caplog):
    of_earlier_version(folder)
    with caplog.at_level(logging.WARNING):
        load_parameters(folder)
        load_parameters(folder, 1)
    lines = [line for line in caplog.messages if "without checksums" in line]
    assert len(lines) == 1 and str(folder) in lines[0]


def test_the_verification_states_unchecked_checkpoints_in_its_own_lines_alone(folder, caplog, capsys):
    of_earlier_version(folder)
    with caplog.at_level(logging.WARNING):
        assert main(["checkpoints", "verify", str(folder)]) == 0
    assert capsys.readouterr().out.count("unchecked") == 2 and not caplog.messages


def made_another(number):
    """What a library does that turns every exception into one of its own."""
    try:
        signal.raise_signal(number)
    except BaseException as stop:
        raise RuntimeError("an array cannot be read") from stop


def lost(number):
    """What asyncio does with the exception of a callback: it reports it, and goes on."""
    loop = asyncio.new_event_loop()
    loop.call_soon(signal.raise_signal, number)
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    loop.close()


@pytest.mark.parametrize("comes", [made_another, lost])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_checkpoint_is_read_takes_effect_after_it(folder, monkeypatch, caplog, number, comes):
    monkeypatch.setattr(integrity, "verify", lambda *_: comes(number))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal
    try:
        with pytest.raises((KeyboardInterrupt, Terminated)), raised_signals():
            restore_latest(Reader(folder), state_of(0))
    finally:
        signal.signal(signal.SIGINT, before)
    assert not caplog.messages


def test_checksums_are_those_of_the_standard():
    """CRC-32C of "123456789" (RFC 3720, B.4, and others)."""
    assert integrity.of_array(np.frombuffer(b"123456789", np.uint8)) == "uint8[9] e3069283"
    assert integrity.of_array(np.asfortranarray(np.eye(3, dtype=np.float32))) == integrity.of_array(jnp.eye(3))
    assert integrity.of_description({"a": (1, 2), 3: 0.1}) == integrity.of_description({"3": 0.1, "a": [1, 2]})


@pytest.mark.slow
@pytest.mark.damage
def test_random_flips_are_noticed_or_harmless(folder):
    """Half of them anywhere in the files of a checkpoint, half in those that hold arrays, description and checksums."""
    held = [largest(folder / "2" / item) for item in ("params", "fixed", "optimizer")]
    held += [folder / "2" / item / "metadata" for item in ("description", "checksums")]
    rng = np.random.default_rng(SEED)
    chosen = [*places(folder / "2", COUNT // 2, SEED)]
    for number in range(COUNT - len(chosen)):
        path = held[number % len(held)]
        chosen.append((path, int(rng.integers(path.stat().st_size)), int(rng.integers(8))))
    answers: dict[str, Counter] = {"noticed": Counter(), "harmless": Counter()}
    for path, byte, bit in chosen:
        with flipped(path, byte, bit):
            found = answer(folder)
        answers["harmless" if found == "---" else "noticed"][path.relative_to(folder / "2").parts[-1][:12]] += 1
    noticed = sum(answers["noticed"].values())
    print(f"\n{noticed} of {len(chosen)} flips noticed; harmless, by byte comparison: {dict(answers['harmless'])}")
    assert noticed >= COUNT // 2
