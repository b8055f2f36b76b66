"""Between JAX and its service in process 0: JAX does not notice that process 0 has ended before `Peers` does.

JAX's client aborts its process at once when that connection ends, with an exit code and a message of its own, and no
setting changes it. Through a relay it only misses an answer, for longer than `Peers` waits.

The relay is this file, as a small process: as a thread it would wait for Python's lock, which some of JAX's calls hold
while they wait for an answer.
"""

import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress

HERE = "127.0.0.1"


_started: list[subprocess.Popen[bytes]] = []


def relay(host: str, port: int) -> int:
    """Relay connections to a port of this host to HOST:PORT, for as long as this process lasts; returns that port."""
    with socket.create_server((HERE, 0)) as listener:
        number = listener.fileno()
        command = [sys.executable, "-I", "-S", __file__, str(number), host, str(port)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[number],
            start_new_session=True,  # Ctrl-C at a terminal is not for it
        )
        _started.append(process)
        own: int = listener.getsockname()[1]
    return own


def _accept(listener: socket.socket, address: tuple[str, int]) -> None:
    while True:
        inner, _ = listener.accept()
        try:
            outer = socket.create_connection(address)
        except OSError:  # not yet there: JAX tries again
            inner.close()
            continue
        for source, target in ((inner, outer), (outer, inner)):
            threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while found := source.recv(2**16):
            target.sendall(found)


if __name__ == "__main__":
    arguments = socket.socket(fileno=int(sys.argv[1])), (sys.argv[2], int(sys.argv[3]))
    threading.Thread(target=_accept, args=arguments, daemon=True).start()
    sys.stdin.buffer.read()  # ends with the process that started this one
    os._exit(0)
