"""Contenders measured in turn, as many side by side as the memory holds, always with the reference among them."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.arithmetic import FIRST_LOOK
from benchmarks.plan import Contender, Group, Options
from benchmarks.processes import Child
from benchmarks.results import Results, Row

SINGLE_STEPS = 10
PROFILED_STEPS = 3
LONGEST_ROUND = 300.0
AGREEMENT = {
    "float32": {"loss": 1e-4, "grad_norm": 1e-3, "logits": 1e-3},
    "bfloat16": {"loss": 1e-2, "grad_norm": 5e-2, "logits": 5e-2},
}
"""Largest relative difference between first steps that compute the same."""

BUDGET_ENDED = "the time was over before it could be measured"


@dataclass
class Desk:
    """What a measurement needs.

    Attributes:
        deadline: When, by `time.monotonic`, nothing new is begun.
        scratch: Folder for logs of the children, records and caches.
        wave: Number of the present wave of contenders.
        children: Those that are set up, by name.
        crowded: Those that ran out of memory beside others and are to be tried again.
    """

    options: Options
    results: Results
    deadline: float
    scratch: Path
    say: Callable[[str], None]
    wave: int = 0
    children: dict[str, Child] = field(default_factory=dict)
    crowded: list[Contender] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.deadline - time.monotonic()

    @property
    def reserve(self) -> float:
        """Seconds that the rounds of those set up will take, which no further set-up may use up."""
        return len(self.children) * self.options.rounds * self.options.round_seconds

    def close(self, keep: str | None = None) -> None:
        """End all children but one."""
        for name in [name for name in self.children if name != keep]:
            self.children.pop(name).close()


def spec_of(contender: Contender, group: Group, desk: Desk) -> dict[str, Any]:
    """What a child is told at its start."""
    changes, if_known = dict(contender.variant.changes), dict(contender.variant.if_known)
    options = dict(contender.options)
    if "records" in options:
        options["folder"] = str(desk.scratch / "records")
    return {
        **asdict(group.workload),
        "kind": contender.kind,
        "changes": changes,
        "if_known": if_known,
        "peer": contender.peer,
        "feed": contender.feed,
        "options": options,
    }


def environment(contender: Contender, group: Group, desk: Desk) -> dict[str, str]:
    """Environment of a child: memory taken as needed, flags of the variant, compilations kept for a second start."""
    flags = " ".join([os.environ.get("XLA_FLAGS", ""), *contender.variant.xla_flags]).strip()
    result = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"}
    result |= {"XLA_FLAGS": flags} if flags else {}
    result["TORCHINDUCTOR_CACHE_DIR"] = str(desk.scratch / "inductor")
    # The parameters of all variants are drawn by one program, and a second start finds its step compiled.
    result["JAX_COMPILATION_CACHE_DIR"] = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(desk.scratch / "compiled"))
    return result | ({"JAX_PLATFORMS": "cpu"} if group.workload.device == "cpu" else {})


def run_group(group: Group, desk: Desk) -> None:
    """Measure one group; every contender ends as a row."""
    reference, *others = group.contenders
    desk.say(str(group.workload))
    waiting = list(others)
    try:
        open_child(reference, group, desk)
        if not waiting:
            run_wave(group, desk)
        while waiting:
            waiting = one_wave(group, waiting, desk)
    finally:
        desk.close()


def one_wave(group: Group, waiting: list[Contender], desk: Desk) -> list[Contender]:
    """Set up as many of those waiting as there is room for, and time them in turn; gives those still waiting."""
    reference = group.contenders[0]
    if reference.name not in desk.children and desk.results.row(group.workload, reference).status == "measured":
        open_child(reference, group, desk)
    while waiting:
        if open_child(waiting[0], group, desk) is NO_ROOM:
            if list(desk.children) == [reference.name]:
                alone(waiting.pop(0), group, desk)
            break  # those without room come again when the others have gone
        waiting = waiting[1:]
    if desk.children:
        run_wave(group, desk)
    desk.close(keep=reference.name)
    crowded, desk.crowded = desk.crowded, []
    return waiting + crowded


def alone(contender: Contender, group: Group, desk: Desk) -> None:
    """Time a contender that has no room beside the reference, after the reference."""
    if not any(each["wave"] > FIRST_LOOK for each in desk.results.row(group.workload, group.contenders[0]).rounds):
        run_wave(group, desk)
    desk.close()
    row = desk.results.row(group.workload, contender)
    row.alone = True
    if open_child(contender, group, desk) is None:
        run_wave(group, desk)
    desk.close()


NO_ROOM = "no room"


def open_child(contender: Contender, group: Group, desk: Desk) -> str | None:
    """Start and set up a contender.

    Returns:
        None when it runs, NO_ROOM when it may run with fewer others, else why it does not run at all.
    """
    row = desk.results.row(group.workload, contender)
    seconds = desk.left - desk.reserve
    if seconds <= 0:
        return end_row(row, desk, BUDGET_ENDED, "skipped")
    desk.say(f"  {contender.name}: setting up")
    child = Child(spec_of(contender, group, desk), desk.scratch / "children.log", environment(contender, group, desk))
    answer = child.ask({"do": "set_up"}, seconds)
    if "failed" in answer:
        if answer["memory"] and desk.children:
            desk.say(f"  {contender.name}: no room beside {', '.join(desk.children)}")
            return NO_ROOM
        reason = "the time was over while it was set up" if answer.get("late") else answer["failed"]
        return end_row(row, desk, reason, "skipped" if answer.get("late") else "failed")
    row.setup = row.setup or answer  # a second start finds its compilation ready
    reference = desk.results.row(group.workload, group.contenders[0])
    difference = disagreement(row, reference)
    if difference is not None:
        child.close()
        return end_row(row, desk, difference, "failed")
    desk.children[contender.name] = child
    desk.results.save()
    if not row.rounds:  # so that something is known of it, whatever the others still take
        timed_round(contender, group, desk, number=0, wave=FIRST_LOOK)
    return None


def disagreement(row: Row, reference: Row) -> str | None:
    """How the first step of one of ours differs from the reference's beyond rounding; None where it does not."""
    if row.contender["feed"] != reference.contender["feed"]:
        return None  # other images
    for name, value in row.setup.get("first", {}).items():
        expected = reference.setup.get("first", {}).get(name)
        allowed = AGREEMENT[row.workload["dtype"]][name]
        if expected is not None and not abs(value / expected - 1) <= allowed:
            return f"its first step gives {name} {value:.6g}, that of {reference.contender['name']} {expected:.6g}"
    return None


def end_row(row: Row, desk: Desk, reason: str, status: str) -> str:
    """Close a row that has no measurement (or keep the one it has)."""
    if row.status != "measured":
        row.status, row.reason = status, reason
    desk.say(f"  {row.contender['name']}: {reason}")
    desk.results.save()
    return reason


def run_wave(group: Group, desk: Desk) -> None:
    """Rounds of all children in turn, every other one backwards, then their single steps and facts."""
    desk.wave += 1
    by_name = {contender.name: contender for contender in group.contenders}
    for number in range(desk.options.rounds):
        names = list(desk.children)
        for name in names if number % 2 == 0 else reversed(names):
            if desk.left <= 0 or name not in desk.children:
                continue
            timed_round(by_name[name], group, desk, number, desk.wave)
    for name in list(desk.children):
        finish(by_name[name], group, desk)


def timed_round(contender: Contender, group: Group, desk: Desk, number: int, wave: int) -> None:
    """One round of one contender."""
    row = desk.results.row(group.workload, contender)
    steps = max(1, round(desk.options.round_seconds / row.setup["step_seconds"]))
    answer = desk.children[contender.name].ask({"do": "round", "steps": steps}, LONGEST_ROUND)
    if "failed" in answer:
        desk.children.pop(contender.name)
        if answer["memory"] and desk.children and not row.alone:
            row.alone = True
            desk.crowded.append(contender)
            return
        end_row(row, desk, answer["failed"], "failed")
        return
    row.status = "measured"
    row.rounds.append({"wave": wave, "number": number, **answer})
    speed = group.workload.batch * answer["steps"] / answer["seconds"]
    label = "a first look" if wave == FIRST_LOOK else f"round {number + 1} of {desk.options.rounds}"
    desk.say(f"  {contender.name}: {label}, {speed:,.1f} images/s")
    desk.results.save()


def finish(contender: Contender, group: Group, desk: Desk) -> None:
    """Single steps, a trace where asked for, facts."""
    row, child = desk.results.row(group.workload, contender), desk.children[contender.name]
    if row.status == "measured" and not row.step_seconds and desk.left > 0:
        steps = min(SINGLE_STEPS, max(3, round(2 * desk.options.round_seconds / row.setup["step_seconds"])))
        row.step_seconds = child.ask({"do": "steps", "steps": steps}, LONGEST_ROUND).get("step_seconds", [])
    row.facts = child.ask({"do": "facts"}, LONGEST_ROUND)
    desk.results.save()
    if group.profile and contender == group.contenders[0] and row.profile is None and desk.left > 0:
        desk.say(f"  {contender.name}: a trace")
        request = {"do": "profile", "folder": str(desk.scratch / "trace"), "steps": PROFILED_STEPS}
        row.profile = child.ask(request, LONGEST_ROUND)
        desk.results.save()
