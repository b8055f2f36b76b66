"""The results as Markdown."""

from typing import Any

from benchmarks import arithmetic, tables, targets
from benchmarks.arithmetic import Round
from benchmarks.plan import ONE_THREAD

Row = dict[str, Any]


def markdown(data: dict[str, Any]) -> str:
    """The whole report; anything not yet measured is missing or said to be."""
    parts = [header(data), target_table(data)]
    for workload in unique([row["workload"] for row in data["rows"]]):
        rows = [row for row in data["rows"] if row["workload"] == workload]
        parts.append(workload_section(workload, rows, data["device"]))
    parts += [tables.profile_section(row) for row in data["rows"] if row["profile"]]
    return "\n\n".join(parts) + "\n"


def unique(values: list[Any]) -> list[Any]:
    """Each value once, in order."""
    return [value for place, value in enumerate(values) if value not in values[:place]]


def header(data: dict[str, Any]) -> str:
    """Device, versions, conditions."""
    about, device = data["about"], data["device"]
    found: dict[str, str] = dict(device.get("versions", {}))
    for row in data["rows"]:
        found |= row["facts"].get("versions", {})
    lines = [
        "# Benchmark",
        "",
        "" if data["finished"] else "**Not finished: this is what was measured so far.**\n",
        f"- device: {device.get('device_kind', device.get('failed', 'not probed'))}; {about['processor']}, "
        f"{about['cores']} cores, load {about['load']:.1f} at the start",
        f"- measured at best: {tables.number(device.get('matmul_flops'), 1e12, 'TFLOP/s')} in a matrix product, "
        f"{tables.number(device.get('copy_bytes_per_second'), 1e9, 'GB/s')} in a copy; "
        f"maker's peak {tables.number(device.get('peak_flops'), 1e12, 'TFLOP/s')}",
        f"- sarwmix_jax {about['sarwmix_jax']} ({about['commit'] or 'no commit'}), Python {about['python']}, "
        + ", ".join(f"{name} {version}" for name, version in found.items()),
        f"- {about['started']}, {about['system']}" + (f", driver {about['driver']}" if about["driver"] else ""),
        "",
        "Contenders of a table took turns in one run, round by round; speeds are medians over rounds, ratios are "
        "medians over pairs of rounds. *MFU* counts the model's own operations against the maker's peak and (in "
        "brackets) against the matrix product measured here. *ours ÷ it* is how many times as fast as this row the "
        "default is.",
    ]
    return "\n".join(line for line in lines if line is not None)


def rounds_of(row: Row) -> list[Round]:
    """Timed rounds of a row."""
    return [Round(each["wave"], each["number"], each["steps"], each["seconds"]) for each in row["rounds"]]


def speed_of(row: Row) -> float | None:
    """Images (or records) a second of a row."""
    return arithmetic.images_per_second(rounds_of(row), row["workload"]["batch"]) if row["rounds"] else None


def ratio_to(row: Row, reference: Row) -> float | None:
    """How many times as fast the reference is."""
    return arithmetic.speed_ratio(rounds_of(reference), rounds_of(row))


def workload_section(workload: dict[str, Any], rows: list[Row], device: dict[str, Any]) -> str:
    """One table of contenders that did the same, and why others are not in it."""
    title = f"## {workload['task']} {workload['size']}, batch {workload['batch']}, {workload['dtype']}"
    source = [row for row in rows if row["contender"]["name"] == "default"] or rows
    flops = next((row["setup"]["flops_per_image"] for row in rows if "flops_per_image" in row["setup"]), None)
    columns = ("", "images/s", "ours ÷ it", "step ms p50 / p90", "MFU", "peak memory", "compile s", "remarks")
    body = [
        tables.contender_cells(
            row, speed_of(row), None if row is source[0] else ratio_to(row, source[0]), flops, device
        )
        for row in rows
        if row["rounds"]
    ]
    missing = [
        f"- {row['contender']['name']}: {row['status']}{': ' + row['reason'] if row['reason'] else ''}"
        for row in rows
        if row["status"] != "measured"
    ]
    table = [tables.table(columns, body)] if body else []
    return "\n\n".join([title, *table, *(["\n".join(missing)] if missing else [])])


def target_table(data: dict[str, Any]) -> str:
    """Must, good and stretch beside what was measured."""
    columns = ("target", "must", "good", "stretch", "measured", "reached")
    lines = [(target, value) for target, value in measured_targets(data)]
    body = [
        [
            target.about,
            *(tables.plain(getattr(target, name)) for name in ("must", "good", "stretch")),
            tables.plain(value) if value is not None else "not measured",
            targets.verdict(value, target) if value is not None else "",
        ]
        for target, value in lines
    ]
    note = f"Images a second are meant for one {targets.DEVICE} in bfloat16; ratios hold on any GPU."
    return "\n\n".join(["## Targets", tables.table(columns, body), note])


def measured_targets(data: dict[str, Any]) -> list[tuple[targets.Target, float | None]]:
    """Each target with the measured value, or None."""
    rows = data["rows"]
    if data["about"]["options"]["device"] == "cpu":
        return [(targets.CPU_RATIO, peer_ratio(rows, "pretrain", "eager", "float32")), *feed_targets(rows)]
    lines: list[tuple[targets.Target, float | None]] = []
    for task, target in targets.SPEED.items():
        lines.append((target, default_speed(rows, task)))
        lines += [
            (targets.named(ratio, task), peer_ratio(rows, task, peer, "bfloat16"))
            for peer, ratio in targets.RATIO.items()
        ]
    return lines + feed_targets(rows)


def default_speed(rows: list[Row], task: str) -> float | None:
    """Best speed of the default on base in bfloat16 at the target's batch."""
    batch = targets.BATCHES[task]
    wanted = {"task": task, "size": "base", "dtype": "bfloat16"} | ({"batch": batch} if batch else {})
    speeds = [
        speed_of(row)
        for row in rows
        if row["contender"]["name"] == "default" and wanted.items() <= row["workload"].items()
    ]
    return max((speed for speed in speeds if speed is not None), default=None)


def peer_ratio(rows: list[Row], task: str, peer: str, dtype: str) -> float | None:
    """How many times as fast as a peer's fastest form the default is, on the first size and batch measured."""
    defaults = [
        row
        for row in rows
        if row["contender"]["name"] == "default"
        and (row["workload"]["task"], row["workload"]["dtype"]) == (task, dtype)
    ]
    for reference in defaults[:1]:
        beside = [r for r in rows if r["contender"]["peer"] == peer and r["workload"] == reference["workload"]]
        return min((ratio for row in beside if (ratio := ratio_to(row, reference)) is not None), default=None)
    return None


def feed_targets(rows: list[Row]) -> list[tuple[targets.Target, float | None]]:
    """Fed against synthetic, and the host pipeline, where they were asked for."""
    lines: list[tuple[targets.Target, float | None]] = []
    for row in rows:
        if row["contender"]["feed"] != "synthetic":
            beside = [r for r in rows if r["workload"] == row["workload"] and r["contender"]["name"] == "default"]
            ratio = ratio_to(row, beside[0]) if beside else None
            lines.append((targets.named(targets.FED, row["contender"]["name"]), None if ratio is None else 1 / ratio))
        if row["contender"]["name"] == ONE_THREAD:
            lines.append((targets.HOST, tables.records_per_cpu_second(row)))
    return lines
