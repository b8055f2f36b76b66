"""Contenders as child processes, seen from the parent."""

import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
QUIT_SECONDS = 5.0


class Child:
    """One contender's process."""

    def __init__(self, spec: dict[str, Any], log: Path, environment: Mapping[str, str]):
        """Start it; what it prints goes to `log`."""
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._log = log
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.contender", json.dumps(spec)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
                # its own group, so that a compiler's helpers end with it
                start_new_session=True,
            )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as replies:
            for line in replies:
                self._lines.put(line)
        self._lines.put(None)

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Its answer; a failure too is one, with `failed` and `memory`. After a failure the process is gone."""
        answer = self._ask(request, seconds)
        if "failed" in answer:
            self.close()
        return answer

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=None if math.isinf(seconds) else max(seconds, 0.1))
        except queue.Empty:
            return {"failed": f"no answer to {request['do']!r} within {seconds:.0f} s", "memory": False, "late": True}
        except OSError:
            line = None
        if line is None:
            return self._ended()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ended(self) -> dict[str, Any]:
        code = self._process.wait()
        killed = code == -signal.SIGKILL  # how a system short of memory ends a process
        last = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()][-1:]
        said = f": {last[0].strip()[:200]}" if last else ""
        return {"failed": f"the process ended with code {code}{said}", "memory": killed}

    def close(self) -> None:
        """End the process and what it started."""
        assert self._process.stdin is not None
        with suppress(OSError, ValueError, subprocess.TimeoutExpired):
            if self._process.poll() is None:
                self._process.stdin.write('{"do": "quit"}\n')
            self._process.stdin.close()
            self._process.wait(QUIT_SECONDS)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(QUIT_SECONDS)
