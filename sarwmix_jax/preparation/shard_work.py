"""The unit of work of a preparation: one shard, and what became of its records."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sarwmix_jax.data.records import Contract, ExcludedError, Record, RecordError
from sarwmix_jax.preparation.plan import Row, Shard
from sarwmix_jax.preparation.writer import ShardSummary, write_shard, write_text

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


@dataclass(frozen=True)
class ShardWork:
    """What a worker needs to write one shard.

    Attributes:
        shard: The shard.
        rows: Its rows of the plan.
        folder: Folder of the work in progress.
        contract: What the records promise.
        read: Makes the record of a row.
        on_error: At a record that cannot be read: `stop`, or `skip` and report it.
    """

    shard: Shard
    rows: list[Row]
    folder: Path
    contract: Contract
    read: Callable[[Row], Record]
    on_error: OnError

    def __call__(self, advance: Callable[[], None]) -> None:
        """Write the shard and then its progress file.

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

        path = self.folder / "records" / self.shard.name
        summary = write_shard(path, records(), self.shard.split, self.contract, bad)
        done = asdict(Outcome(summary, tuple(problems), tuple(excluded), facts))
        write_text(progress_file(self.folder, self.shard), json.dumps(done) + "\n")


def progress_file(folder: Path, shard: Shard) -> Path:
    """File that tells that a shard is finished, and its outcome."""
    return folder / "progress" / f"{shard.name}.json"


def read_outcome(folder: Path, shard: Shard) -> Outcome:
    """The outcome of a finished shard."""
    fields: dict[str, Any] = json.loads(progress_file(folder, shard).read_text())
    summary: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields["summary"].items()}
    problems, excluded = (tuple(Problem(**p) for p in fields.get(kind, ())) for kind in ("problems", "excluded"))
    return Outcome(ShardSummary(**summary), problems, excluded, fields.get("facts", {}))
