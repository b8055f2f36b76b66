"""Where the package's GPU kernels run: on the device or, for tests, in Pallas' interpreter."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_interpret: ContextVar[bool] = ContextVar("interpret", default=False)


@contextmanager
def interpreted() -> Iterator[None]:
    """Functions traced in this context run the kernels in Pallas' interpreter: on any device, exact, and very slow."""
    token = _interpret.set(True)
    try:
        yield
    finally:
        _interpret.reset(token)


def interpreting() -> bool:
    """Whether kernels that are traced now run in the interpreter."""
    return _interpret.get()
