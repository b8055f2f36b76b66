"""How much of the time of a run was productive, and what the rest went to, over all its starts."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sarwmix_jax.progress import duration
from sarwmix_jax.reports.lines import number

PRODUCTIVE, LOST = "productive", "lost_work"


def spent(entries: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Seconds by what they were spent on, the largest first; None where the log does not have them.

    Of a start without an end, as after a kill, the time after its last checkpoint is lost work; time between the starts
    is not counted.
    """
    total: dict[str, float] = defaultdict(float)
    known: Mapping[str, Any] = {}
    saved = last = None
    for entry in [*entries, {"event": "start"}]:
        time = number(entry.get("time"))
        if entry.get("event") == "start":
            for name, value in known.items():
                total[name] += number(value) or 0.0
            if saved is not None and last is not None:
                total[LOST] += max(last - saved, 0.0)
            known, saved = {}, time
        elif isinstance(entry.get("seconds"), dict):
            known, saved = entry["seconds"], time
        last = time if entry.get("event") != "begin" else last
    return dict(sorted(total.items(), key=lambda item: -item[1])) if total.get(PRODUCTIVE) else None


def goodput(seconds: Mapping[str, float] | None) -> float | None:
    """Share of the time that was productive."""
    return None if seconds is None else seconds[PRODUCTIVE] / sum(seconds.values())


def goodput_note(seconds: Mapping[str, float] | None) -> list[str]:
    """The shares in a sentence."""
    if seconds is None:
        return []
    total = sum(seconds.values())
    rest = [f"{name.replace('_', ' ')} {value / total:.1%}" for name, value in seconds.items() if name != PRODUCTIVE]
    return [f"{seconds[PRODUCTIVE] / total:.1%} of {duration(total)} were productive; {', '.join(rest)}"]
