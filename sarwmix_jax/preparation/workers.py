"""Running units of work in several processes, with a progress bar."""

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sarwmix_jax.errors import UserError

Advance = Callable[[], None]
Task = Callable[[Advance], None]
_POLL_SECONDS = 0.2


def run_tasks(tasks: Iterable[Task], workers: int, title: str, *, total: int, done: int = 0) -> None:
    """Run every task, in any order.

    Args:
        tasks: Callables that call their argument once per unit done; picklable when there are several workers;
            taken from the iterable as workers come free.
        workers: Processes; 1 works in this one.
        title: Text beside the progress bar.
        total: Units in all.
        done: Units done before.

    Raises:
        UserError: A worker was killed, for example for lack of memory, or `workers` is below 1.
        Exception: The first one a task raised; tasks not begun are dropped.
    """
    if workers < 1:
        raise UserError(f"workers {workers}: at least 1 is needed")
    with _progress_bar() as bar:
        row = bar.add_task(title, total=total, completed=done)
        if workers == 1:
            for task in tasks:
                task(lambda: bar.advance(row))
            return
        context = multiprocessing.get_context("spawn")
        counter = context.Value("q", done)
        with ProcessPoolExecutor(workers, context, _start_worker, (counter,)) as pool:
            for _ in _run_in_pool(pool, tasks, workers):
                bar.update(row, completed=counter.value)
            bar.update(row, completed=counter.value)


def _run_in_pool(pool: ProcessPoolExecutor, tasks: Iterable[Task], workers: int) -> Iterator[None]:
    """Keep every worker busy and one task each in waiting; yield a few times a second."""
    waiting = iter(tasks)
    running: set[Future[None]] = set()
    try:
        while True:
            while len(running) < 2 * workers and (task := next(waiting, None)) is not None:
                running.add(pool.submit(_run_in_worker, task))
            if not running:
                return
            finished, running = wait(running, _POLL_SECONDS, FIRST_COMPLETED)
            for future in finished:
                future.result()
            yield
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, perhaps for lack of memory; run again with fewer --workers"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_counter: Any = None


def _start_worker(counter: Any) -> None:
    global _counter
    _counter = counter
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever, or write beside the next run."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _run_in_worker(task: Task) -> None:
    task(_advance)


def _advance() -> None:
    with _counter.get_lock():
        _counter.value += 1


@contextmanager
def _progress_bar() -> Iterator[Progress]:
    """A bar on a terminal; elsewhere nothing (a log would fill with it)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not sys.stderr.isatty()) as bar:
        yield bar
