"""What a contender does, whatever it is made of."""

from typing import Any, Protocol


class Unavailable(Exception):
    """This contender cannot take part here: why, in one line."""


class Work(Protocol):
    """What a contender times."""

    def set_up(self) -> dict[str, Any]:
        """Builds, compiles and warms up; gives what is worth reporting, `step_seconds` (an estimate) included."""

    def step(self) -> None:
        """Starts one step."""

    def wait(self) -> None:
        """Returns when all that was started is done."""

    def before_round(self) -> None:
        """Untimed: brings the work into the state that it has in the middle of a run."""

    def after_round(self) -> dict[str, Any]:
        """What to report of the round besides its time; raises when the work went wrong."""

    def facts(self) -> dict[str, Any]:
        """Peak memory and versions."""
