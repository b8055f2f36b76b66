"""Preparing the records of a plan: the shard as unit of work, what became of its records, and the finished set."""

import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sarwmix_jax import plausibility
from sarwmix_jax.data.records import Contract, ExcludedError, Record, RecordError, shard_name
from sarwmix_jax.data.sources import check_values, open_records
from sarwmix_jax.errors import UserError
from sarwmix_jax.preparation.plan import Plan, Row, Shard
from sarwmix_jax.preparation.workers import Advance, Work, run
from sarwmix_jax.preparation.writer import (
    RECORDS_PER_SHARD,
    ShardSummary,
    check_absent,
    publish,
    write_description,
    write_shard,
    writing_errors,
)

OnError = Literal["stop", "skip"]


@dataclass(frozen=True)
class Problem:
    """A record that is not written, and why."""

    patch_id: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What became of a shard.

    Attributes:
        summary: What was written.
        problems: Records that could not be read.
        excluded: Records that a rule of the data set leaves out.
        facts: What readers noted, by record.
    """

    summary: ShardSummary
    problems: tuple[Problem, ...] = ()
    excluded: tuple[Problem, ...] = ()
    facts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def left_out(self) -> set[str]:
        """Names of the records that are not in the shard."""
        return {problem.patch_id for problem in (*self.problems, *self.excluded)}


Finish = Callable[[Path, Plan, Sequence[Outcome]], dict[str, Any]]
"""Adds files to a complete record set (folder, plan, outcomes by shard) and gives fields for its report."""


def prepare(
    plan: Plan,
    read: Callable[[Row], Record],
    out: Path,
    *,
    on_error: OnError = "stop",
    finish: Finish | None = None,
    **work: Any,
) -> list[Problem] | None:
    """Write the records of a plan, or go on where an earlier run was stopped.

    Args:
        plan: What to write.
        read: Makes the record of a row, or raises `RecordError` or `ExcludedError`; picklable.
        out: Folder to make.
        on_error: At a record that cannot be read: `stop`, or `skip` and report it.
        finish: Adds to the record set when all records are written.
        **work: `workers`, `part` and `merge`, as for `workers.run`.

    Returns:
        The records that were skipped, or None when the record set is not complete yet.

    Raises:
        UserError: Unreadable records, values that a run would refuse, other work in the same place, a full disk,
            missing parts.
    """

    def make(shard: Shard) -> ShardWork:
        return ShardWork(shard, plan.rows_of(shard), plan.contract, read, on_error)

    def complete(folder: Path, outcomes: dict[str, Any]) -> dict[str, Any]:
        return _complete(plan, folder, [_outcome(fields) for fields in outcomes.values()], on_error, finish)

    report = run(Work(plan.fingerprint, plan.shards, make, complete), out, **work)
    return None if report is None else [Problem(**problem) for problem in report["skipped"]]


@dataclass(frozen=True)
class ShardWork:
    """What a worker needs to write one shard.

    Attributes:
        shard: The shard.
        rows: Its rows of the plan.
        contract: What the records promise.
        read: Makes the record of a row.
        on_error: At a record that cannot be read: `stop`, or `skip` and report it.
    """

    shard: Shard
    rows: list[Row]
    contract: Contract
    read: Callable[[Row], Record]
    on_error: OnError

    def __call__(self, folder: Path, advance: Advance) -> dict[str, Any]:
        """Write the shard; gives its `Outcome` as a dict.

        Raises:
            RecordError: A record cannot be read and `on_error` is `stop`.
        """
        problems: list[Problem] = []
        excluded: list[Problem] = []
        facts: dict[str, Mapping[str, int]] = {}

        def bad(patch_id: str, error: RecordError) -> None:
            if self.on_error == "stop":
                raise RecordError(f"{patch_id}: {error}")
            problems.append(Problem(patch_id, str(error)))

        def records() -> Iterator[Record]:
            for row in self.rows:
                try:
                    record = self.read(row)
                    _check_range(record, self.contract)
                except RecordError as error:
                    bad(row["patch_id"], error)
                except OSError as error:
                    bad(row["patch_id"], RecordError(f"cannot be read ({error})"))
                except ExcludedError as rule:
                    excluded.append(Problem(row["patch_id"], str(rule)))
                else:
                    if record.facts:
                        facts[row["patch_id"]] = dict(record.facts)
                    yield record
                advance()

        summary = write_shard(folder / self.shard.name, records(), self.shard.split, self.contract, bad)
        return asdict(Outcome(summary, tuple(problems), tuple(excluded), facts))


def _check_range(record: Record, contract: Contract) -> None:
    """Refuse a record that a run would refuse, as far as a quick look shows; the finished set is judged as a whole."""
    if contract.unit == "dB":
        values = record.image if record.valid_pixels is None else record.image[:, record.valid_pixels]
        found = plausibility.judge_range(values)
        if found is not None:
            raise RecordError(f"{found.reason}; {found.remedy}")


def _outcome(fields: dict[str, Any]) -> Outcome:
    summary: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields["summary"].items()}
    problems, excluded = (tuple(Problem(**p) for p in fields.get(kind, ())) for kind in ("problems", "excluded"))
    return Outcome(ShardSummary(**summary), problems, excluded, fields.get("facts", {}))


def _complete(
    plan: Plan, folder: Path, outcomes: Sequence[Outcome], on_error: OnError, finish: Finish | None
) -> dict[str, Any]:
    """Describe the finished shards in `folder` and judge their values; gives the report."""
    skipped = [problem for outcome in outcomes for problem in outcome.problems]
    excluded = [problem for outcome in outcomes for problem in outcome.excluded]
    if skipped and on_error == "stop":
        raise UserError(
            f"{len(skipped)} records were skipped before (first {skipped[0].patch_id}: {skipped[0].reason}); "
            f"accept it with --on-error=skip, or remove {folder.parent} to begin anew"
        )
    splits: dict[str, list[ShardSummary]] = {}
    for shard, outcome in zip(plan.shards, outcomes, strict=True):
        splits.setdefault(shard.split, []).append(outcome.summary)
    written = {split: shards for split, shards in splits.items() if any(shard.records for shard in shards)}
    if not written:
        reason = (*skipped, *excluded)[0].reason
        raise UserError(f"not one of {plan.rows.num_rows} records could be read: {reason}")
    for shard in plan.shards:
        if shard.split not in written:
            (folder / shard.name).unlink(missing_ok=True)
    report = {
        "planned": plan.rows.num_rows,
        "written": sum(outcome.summary.records for outcome in outcomes),
        "skipped": [asdict(problem) for problem in skipped],
        "excluded": dict(sorted(Counter(problem.reason for problem in excluded).items())),
        **plan.notes,
        **(finish(folder, plan, outcomes) if finish is not None else {}),
    }
    write_description(folder, plan.contract, written)
    for split in written:
        check_values(open_records(folder, split))
    return report


def write_records(
    out: Path, contract: Contract, splits: Mapping[str, Iterable[Record]], *, records_per_shard: int = RECORDS_PER_SHARD
) -> Contract:
    """Write a whole record set from streams of records, in this process.

    Args:
        out: Folder to make; must not exist (or be empty).
        contract: The promise; statistics and record counts are filled in.
        splits: Records by split name; a split without records is left out.
        records_per_shard: Largest number of records in a file.

    Returns:
        The completed contract.

    Raises:
        UserError: `out` exists, the disk is full, or a record breaks the contract.
    """
    check_absent(out)
    with writing_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    with scratch as name:
        folder = Path(name) / "records"
        folder.mkdir()
        try:
            shards = {split: _write_split(folder, split, r, contract, records_per_shard) for split, r in splits.items()}
        except RecordError as error:
            raise UserError(f"{error}; repair the source and run again") from None
        contract = write_description(folder, contract, {split: some for split, some in shards.items() if some})
        publish(folder, out)
    return contract


def _write_split(
    folder: Path, split: str, records: Iterable[Record], contract: Contract, records_per_shard: int
) -> list[ShardSummary]:
    """Write shards under running numbers; their count, part of the final name, is known at the end."""
    shards: list[ShardSummary] = []
    stream = iter(records)
    for first in stream:
        chunk = itertools.chain([first], itertools.islice(stream, records_per_shard - 1))
        shards.append(write_shard(folder / f"{split}-{len(shards)}", chunk, split, contract))
    for number in range(len(shards)):
        name = shard_name(contract.name, split, number, len(shards))
        (folder / f"{split}-{number}").rename(folder / name)
    return shards
