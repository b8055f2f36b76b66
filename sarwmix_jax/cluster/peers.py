"""The processes of a job: who has come, who has failed, who does not answer; all end with the first that fails.

JAX's own service ends a process by an abort, and names neither who is missing at the start nor the host of who is lost.
So process 0 keeps a connection with every other process. Each sends a sign of life in short intervals, and its error
when it fails; a killed process is noticed by the end of its connection, at once.
"""

import json
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sarwmix_jax.errors import UserError, one_line

_RETRY_SECONDS = 0.2
Message = dict[str, Any]


@dataclass(eq=False)
class Peer:
    """One other process.

    Attributes:
        name: Number and host, for the user.
        connection: The connection with it.
        seen: When it last sent anything.
        left: Whether it has done its work.
    """

    name: str
    connection: socket.socket
    seen: float = field(default_factory=time.monotonic)
    left: bool = False
    _received: bytes = b""

    def send(self, message: Message) -> None:
        """Send a message; nothing where the process has ended."""
        with suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[Message] | None:
        """Messages that have come; None where the process has ended."""
        try:
            found = self.connection.recv(2**16)
        except OSError:
            return None
        if not found:
            return None
        self.seen = time.monotonic()
        *lines, self._received = (self._received + found).split(b"\n")
        return [json.loads(line) for line in lines]

    def message(self, latest: float) -> Message:
        """Wait for one message.

        Raises:
            OSError: None has come in time, or the process has ended.
            ValueError: It is not a process of a job.
        """
        while True:
            self.connection.settimeout(max(latest - time.monotonic(), 1e-3))
            found = self.receive()
            if found is None:
                raise OSError("no message")
            if found:
                self.connection.settimeout(None)
                return found[0]


class Peers:
    """The other processes: all of them for process 0, which passes on what happens; only that one for all others."""

    def __init__(
        self, own: str, others: list[Peer], limit_seconds: float, end: Callable[[str, int | None, bool], None]
    ):
        """Watch from now on.

        Args:
            own: Name of this process.
            others: The processes that this one is connected with.
            limit_seconds: How long a process may be silent.
            end: Called where another process fails or is lost, with a line, an exit code, and whether this process
                itself noticed the loss; it ends this process.
        """
        self.own = own
        self._others, self._limit, self._end = others, limit_seconds, end
        self._left = threading.Event()
        self._interval = min(max(limit_seconds / 10, 0.1), 5.0)
        self._watch_thread = threading.Thread(target=self._watch, daemon=True, name="peers")
        self._watch_thread.start()

    def fail(self, line: str, code: int) -> None:
        """Inform all others of a failure of this process, which ends; nothing once it has left or failed."""
        if self._left.is_set():
            return
        self._left.set()
        for peer in self._others:
            peer.send({"failed": f"{self.own}: {one_line(line)}", "code": code})

    def await_reason(self) -> None:
        """Wait a little for the failure of another process, which ends this one: a broken connection came first."""
        self._watch_thread.join(2 * self._interval)

    def leave(self) -> None:
        """This process has done its work."""
        self._left.set()
        for peer in self._others:
            peer.send({"left": True})

    def _watch(self) -> None:
        try:
            self._watch_others()
        finally:
            for peer in self._others:
                peer.connection.close()

    def _watch_others(self) -> None:
        while not self._left.is_set():
            present = {peer.connection: peer for peer in self._others if not peer.left}
            if not present:
                return
            for peer in present.values():
                peer.send({"alive": True})
            until = time.monotonic() + self._interval
            while (wait := until - time.monotonic()) > 0 and present:
                for connection in select.select(list(present), [], [], wait)[0]:
                    if not self._received(present[connection]):
                        del present[connection]
            for peer in present.values():
                if time.monotonic() - peer.seen > self._limit and not self._left.is_set():
                    self._lost(peer, f"has not answered for {self._limit:g} s")

    def _received(self, peer: Peer) -> bool:
        """Take what has come from a process; False where nothing follows."""
        messages = peer.receive()
        for message in messages or ():
            if "failed" in message:
                self._pass_on(message["failed"], message["code"], lost=False)
            peer.left |= "left" in message
        if messages is None and not peer.left and not self._left.is_set():
            self._lost(peer, "has ended without an error of its own, as if killed")
        return messages is not None and not peer.left

    def _lost(self, peer: Peer, how: str) -> None:
        self._pass_on(
            f"{peer.name} {how}; start the same command again, it continues from the last checkpoint", None, True
        )

    def _pass_on(self, line: str, code: int | None, lost: bool) -> None:
        for peer in self._others:
            peer.send({"failed": line, "code": code})
        if not self._left.is_set():
            self._end(line, code, lost)


def name_of(process: int, processes: int, host: str) -> str:
    """A process in the messages."""
    return f"process {process} of {processes} on {host}"


def gather(address: str, processes: int, wait_seconds: float) -> tuple[list[Peer], int]:
    """Process 0: wait for all others; returns them, and a free port for JAX's service.

    Raises:
        UserError: The port is taken, or processes are missing in the end, which the line names; so do those of all
            processes that have come.
    """
    latest, host = time.monotonic() + wait_seconds, socket.gethostname()
    found: dict[int, Peer] = {}
    with _listening(address) as listener:
        while len(found) < processes - 1:
            listener.settimeout(max(latest - time.monotonic(), 1e-3))
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                break
            peer = Peer("", connection)
            try:
                message = peer.message(min(latest, time.monotonic() + 10))
                number, count, name = message["process"], message["processes"], message["host"]
            except (OSError, ValueError, KeyError, TypeError):  # not a process of a job
                connection.close()
                continue
            if count != processes or number in found or not 0 < number < processes:
                unwanted = f"process {number} of {count} is not wanted in the job of {processes} at {address}"
                peer.send({"failed": unwanted})
                connection.close()
                continue
            peer.name = name_of(number, processes, name)
            found[number] = peer
    others = list(found.values())
    if missing := [str(number) for number in range(1, processes) if number not in found]:
        line = (
            f"{len(missing)} of {processes} processes did not come to {address} within {wait_seconds:g} s: "
            f"{', '.join(missing)}; see their own output, and that of the scheduler"
        )
        for peer in others:
            peer.send({"failed": line})
            peer.connection.close()
        raise UserError(line)
    with socket.create_server(("", 0)) as free:
        service_port = free.getsockname()[1]
    for peer in others:
        peer.send({"port": service_port, "host": host})
    return others, service_port


def _listening(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    families = (socket.AF_INET6, socket.AF_INET) if socket.has_ipv6 else (socket.AF_INET,)
    for family in families:
        with suppress(OSError):
            dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
            place = ("", int(port))
            return socket.create_server(place, family=family, backlog=4096, dualstack_ipv6=dual)
    raise UserError(f"port {port} of {host} is in use, perhaps by another job; give another --coordinator=HOST:PORT")


def report(address: str, process: int, processes: int, wait_seconds: float) -> tuple[list[Peer], int]:
    """Another process: report to process 0; returns that one, and the port of JAX's service.

    Raises:
        UserError: Process 0 does not answer, or others are missing.
    """
    host, _, port = address.rpartition(":")
    latest, reason = time.monotonic() + wait_seconds, ""
    while (left := latest - time.monotonic()) > 0:
        connection = None
        try:
            connection = socket.create_connection((host, int(port)), timeout=left)
            peer = Peer(name_of(0, processes, host), connection)
            peer.send({"process": process, "processes": processes, "host": socket.gethostname()})
            answer = peer.message(latest + 10)  # process 0 itself waits as long, and then states who is missing
        except (OSError, ValueError) as error:
            if connection is not None:
                connection.close()
            reason = f" ({one_line(error)})"
            time.sleep(min(_RETRY_SECONDS, left))
            continue
        if "failed" in answer:
            connection.close()
            raise UserError(answer["failed"])
        peer.name = name_of(0, processes, answer["host"])
        return [peer], answer["port"]
    raise UserError(
        f"process 0 did not answer at {address} within {wait_seconds:g} s{reason}; see its own output, "
        "and whether this host can reach it"
    )
