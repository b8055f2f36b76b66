"""Cells and tables of the report."""

from collections.abc import Sequence
from typing import Any

from benchmarks.arithmetic import FIRST_LOOK, percentile, utilisation

GIB = 2**30


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(value: float | None) -> str:
    """A number with as many digits as tell something."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.1f}" if value >= 10 else f"{value:.3g}"


def number(value: float | None, unit: float, name: str) -> str:
    """A number in a unit, or that it is not known."""
    return "unknown" if value is None else f"{plain(value / unit)} {name}"


def contender_cells(
    row: dict[str, Any], speed: float | None, ratio: float | None, flops: float | None, device: dict[str, Any]
) -> list[str]:
    """One line of a table of contenders."""
    times = row["step_seconds"]
    single = f"{1000 * percentile(times, 0.5):,.1f} / {1000 * percentile(times, 0.9):,.1f}" if times else ""
    setup, facts = row["setup"], row["facts"]
    compiled = setup.get("trace_seconds", 0.0) + setup["compile_seconds"] if "compile_seconds" in setup else None
    peak = facts.get("peak_bytes")
    host = row["contender"]["kind"] == "host"
    return [
        row["contender"]["name"],
        plain(speed),
        "" if ratio is None or host else f"{ratio:.3f}",
        single,
        "" if host else mfu(speed, flops, device),
        "" if peak is None else f"{peak / GIB:.2f} GiB" + (" (process)" if facts.get("peak_of") == "process" else ""),
        "" if compiled is None else f"{compiled:.1f}",
        remarks(row),
    ]


def mfu(speed: float | None, flops: float | None, device: dict[str, Any]) -> str:
    """Of the maker's peak and, in brackets, of the measured one."""
    peaks = [device.get("peak_flops"), device.get("matmul_flops")]
    if speed is None or flops is None:
        return ""
    shares = [f"{utilisation(speed, flops, peak):.1%}" if peak else "-" for peak in peaks]
    return f"{shares[0]} ({shares[1]})"


def remarks(row: dict[str, Any]) -> str:
    """What else is to be known of a row."""
    rounds = row["rounds"]
    in_turn = sum(each["wave"] != FIRST_LOOK for each in rounds)
    words = [f"{in_turn} rounds" if in_turn else "a first look, not in turn"]
    if row["alone"]:
        words.append("no room beside the others: not in turn")
    golden = row["setup"].get("golden", {})
    if golden:
        words.append(f"golden to {golden['deviation']:.0e}" if golden["checked"] else "golden numbers not there")
    if row["contender"]["feed"] != "synthetic":
        wait = sum(each["data_wait_seconds"] for each in rounds) / sum(each["seconds"] for each in rounds)
        words.append(f"data wait {wait:.2%}")
    if row["contender"]["kind"] == "host":
        speed = records_per_cpu_second(row)
        words.append("read in other processes" if speed is None else f"{plain(speed)} records per processor second")
    return "; ".join(words)


def records_per_cpu_second(row: dict[str, Any]) -> float | None:
    """Records per second of processor time of the host pipeline; None where other processes read."""
    if row["contender"]["options"]["workers"] or not row["rounds"]:
        return None
    records = sum(each["steps"] for each in row["rounds"]) * row["workload"]["batch"]
    return float(records / max(sum(each["cpu_seconds"] for each in row["rounds"]), 1e-9))


def profile_section(row: dict[str, Any]) -> str:
    """Where a step's time goes."""
    profile, workload = row["profile"], row["workload"]
    title = f"## Where the time goes: {workload['task']} {workload['size']}, batch {workload['batch']}"
    if "failed" in profile:
        return f"{title}\n\nNo trace: {profile['failed']}"
    lines = [
        [name, f"{milliseconds:.3f}", f"{milliseconds / max(profile['busy_ms'], 1e-9):.1%}"]
        for name, milliseconds in profile["kinds"].items()
    ]
    xla = row["setup"].get("xla", {})
    notes = [
        f"{profile['steps']} steps, {profile['span_ms']:.2f} ms each from the first kernel to the last, "
        f"{profile['idle_ms']:.2f} ms of it with nothing running; a fusion counts as what its last operation is. "
        f"{profile['note']}",
        f"XLA's own account of a step: {number(xla.get('flops'), 1e9, 'GFLOP')}, "
        f"{number(xla.get('bytes_accessed'), 1e9, 'GB')} read and written.",
    ]
    return "\n\n".join([title, table(("kind", "ms a step", "share"), lines), *notes])
