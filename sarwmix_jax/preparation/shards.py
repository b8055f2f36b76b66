"""Preparing the records of a plan: shards as units of work, outcomes of their records, and the finished set."""

import functools
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sarwmix_jax import plausibility
from sarwmix_jax.data import verification
from sarwmix_jax.data.records import Contract, ExcludedError, Record, RecordError, encode_record, shard_name
from sarwmix_jax.data.sources import check_values, open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation.plan import Plan, Row, Shard
from sarwmix_jax.preparation.workers import Work, run
from sarwmix_jax.preparation.writer import ShardSummary, join_shards, write_description, write_shard
from sarwmix_jax.progress import progress

OnError = Literal["stop", "skip"]
Read = Callable[[Row], Record]
Reasons = dict[str, str]
"""Why records are not written, by name."""


@dataclass(frozen=True)
class Outcome:
    """Result of preparing a shard.

    Attributes:
        summary: Summary of the written records.
        problems: Records that could not be read, with the reason.
        excluded: Records that a rule of the data set leaves out, with the rule.
        facts: Notes of the readers, by record.
    """

    summary: ShardSummary
    problems: Reasons
    excluded: Reasons
    facts: Mapping[str, Mapping[str, int]]


Finish = Callable[[Path, Plan, Sequence[Outcome]], dict[str, Any]]
"""Adds files to a complete record set (folder, plan, outcomes by shard) and gives fields for its report."""


def prepare(
    plan: Plan,
    read: Read,
    out: Path,
    *,
    on_error: OnError = "stop",
    finish: Finish | None = None,
    **work: Any,
) -> Reasons | None:
    """Write the records of a plan, or continue where an earlier run was stopped.

    Args:
        plan: The plan.
        read: Makes the record of a row, or raises `RecordError` or `ExcludedError`; picklable.
        out: Folder to create.
        on_error: At a record that cannot be read: `stop`, or `skip` and report it.
        finish: Adds to the record set when all records are written.
        **work: `workers`, `part` and `merge`, as for `workers.run`.

    Returns:
        Why records were skipped, or None when the record set is not complete yet.

    Raises:
        UserError: Records are unreadable or have values that a run would refuse, other work is in the same place, the
            disk is full, or parts are missing.
    """

    def make(shard: Shard) -> Callable[[Path], dict[str, Any]]:
        return functools.partial(_write, shard, plan.rows_of(shard), plan.contract, read, on_error)

    def complete(folder: Path, outcomes: dict[str, Any]) -> dict[str, Any]:
        known = [Outcome(**fields | {"summary": ShardSummary(**fields["summary"])}) for fields in outcomes.values()]
        return _complete(plan, folder, known, on_error, finish)

    report = run(Work(plan.fingerprint, plan.shards, make, complete), out, **work)
    return None if report is None else {each["patch_id"]: each["reason"] for each in report["skipped"]}


def _write(
    shard: Shard, rows: list[Row], contract: Contract, read: Read, on_error: OnError, folder: Path
) -> dict[str, Any]:
    """Write a shard; returns its `Outcome` as a dict.

    Raises:
        RecordError: A record cannot be read and `on_error` is `stop`.
    """
    problems: Reasons = {}
    excluded: Reasons = {}
    facts: dict[str, Mapping[str, int]] = {}

    def records() -> Iterator[tuple[Record, bytes]]:
        for row in rows:
            name = row["patch_id"]
            try:
                record = read(row)
                _check_range(record, contract)
                data = encode_record(record, shard.split, contract)
            except ExcludedError as rule:
                excluded[name] = str(rule)
            except (RecordError, OSError) as error:
                reason = f"cannot be read ({error})" if isinstance(error, OSError) else str(error)
                if on_error == "stop":
                    raise RecordError(f"{name}: {reason}") from None
                problems[name] = reason
            else:
                if record.facts:
                    facts[name] = record.facts
                yield record, data

    summary = write_shard(folder / shard.name, records(), len(contract.bands))
    return asdict(Outcome(summary, problems, excluded, facts))


def _check_range(record: Record, contract: Contract) -> None:
    """Refuse a record that a run would refuse, by a quick check; the finished set is checked as a whole later."""
    if contract.unit == "dB":
        values = record.image if record.valid_pixels is None else record.image[:, record.valid_pixels]
        found = plausibility.judge_range(values)
        if found is not None:
            raise RecordError(f"{found.reason}; {found.remedy}")


def _complete(
    plan: Plan, folder: Path, outcomes: Sequence[Outcome], on_error: OnError, finish: Finish | None
) -> dict[str, Any]:
    """Describe the finished shards in `folder` and check their values; returns the report."""
    skipped = [reason for outcome in outcomes for reason in outcome.problems.items()]
    excluded = [reason for outcome in outcomes for reason in outcome.excluded.values()]
    if skipped and on_error == "stop":
        raise UserError(
            f"{len(skipped)} records were skipped before (first {': '.join(skipped[0])}); "
            f"accept it with --on-error=skip, or remove {folder.parent} to start again"
        )
    if not any(outcome.summary.records for outcome in outcomes):
        reason = [*(reason for _, reason in skipped), *excluded][0]
        raise UserError(f"none of {plan.rows.num_rows} records could be read: {reason}")
    _check_shards(plan, folder, outcomes)
    report = {
        "planned": plan.rows.num_rows,
        "written": sum(outcome.summary.records for outcome in outcomes),
        "skipped": [{"patch_id": name, "reason": reason} for name, reason in skipped],
        "excluded": dict(sorted(Counter(excluded).items())),
        **plan.notes,
        **(finish(folder, plan, outcomes) if finish is not None else {}),
    }
    written = _pack(plan, folder, [outcome.summary for outcome in outcomes])
    write_description(folder, plan.contract, written)
    for split in written:
        check_values(open_records(folder, split))
    return report


def _check_shards(plan: Plan, folder: Path, outcomes: Sequence[Outcome]) -> None:
    """Refuse shards that were damaged after they were written; those that a stopped start has joined are gone."""
    for shard, outcome in zip(plan.shards, outcomes, strict=True):
        counts = {shard.name: outcome.summary.records}
        if (folder / shard.name).exists() and any(verification.counted_faults(folder, counts)):
            note = folder.parent / "progress" / f"{shard.name}.json"
            raise UserError(f"{folder / shard.name} is damaged; remove {note}, and the next start makes it again")


def _pack(plan: Plan, folder: Path, summaries: Sequence[ShardSummary]) -> dict[str, list[ShardSummary]]:
    """Join neighbouring files where many records were left out; returns the summaries of the files by split.

    No file gets more records than planned. After an interruption it continues: names of joined files contain a smaller
    number of files than those of the plan.
    """
    groups: dict[str, list[list[tuple[Path, ShardSummary]]]] = {}
    for shard, summary in zip(plan.shards, summaries, strict=True):
        if not summary.records:
            (folder / shard.name).unlink(missing_ok=True)
            continue
        files = groups.setdefault(shard.split, [[]])
        if sum(part.records for _, part in files[-1]) + summary.records > plan.records_per_shard:
            files.append([])
        files[-1].append((folder / shard.name, summary))
    packed: dict[str, list[ShardSummary]] = {}
    with progress("merging files", sum(summary.records for summary in summaries)) as advance:
        for split, files in groups.items():
            for number, parts in enumerate(files):
                whole = functools.reduce(operator.add, (summary for _, summary in parts))
                _join(folder / shard_name(plan.contract.name, split, number, len(files)), [p for p, _ in parts], whole)
                packed.setdefault(split, []).append(whole)
                advance(whole.records)
    return packed


def _join(path: Path, parts: Sequence[Path], summary: ShardSummary) -> None:
    if path.exists():
        leftovers = [part for part in parts if part != path]
    elif len(parts) == 1:
        parts[0].replace(path)
        leftovers = []
    else:
        join_shards(path, parts, summary.records)
        leftovers = list(parts)
    for part in leftovers:
        part.unlink(missing_ok=True)
