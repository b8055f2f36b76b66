"""Processes that do not come, fail, end or stop: the others end, with a line that names them."""

import socket
import threading

import pytest

from sarwmix_jax.cluster.peers import Peers, gather, report
from sarwmix_jax.errors import UserError

HOST = socket.gethostname()


@pytest.fixture
def address():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def join(address, numbers, processes, seconds):
    """What each of the processes with these numbers finds."""
    found = {}

    def one(number):
        try:
            found[number] = (
                report(address, number, processes, seconds) if number else gather(address, processes, seconds)
            )
        except UserError as error:
            found[number] = str(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def close(found):
    for others, _ in found.values():
        for peer in others:
            peer.connection.close()


def test_all_come(address):
    found = join(address, (2, 0, 1), 3, 5)
    assert {port for _, port in found.values()} == {found[0][1]}
    assert sorted(peer.name for peer in found[0][0]) == [f"process {n} of 3 on {HOST}" for n in (1, 2)]
    assert [peer.name for peer in found[1][0]] == [f"process 0 of 3 on {HOST}"]
    close(found)


def test_who_is_missing_is_named_to_all_that_came(address):
    found = join(address, (0, 2), 4, 0.7)
    assert found[0] == found[2]
    assert found[0].startswith(f"2 of 4 processes did not come to {address} within 0.7 s: 1, 3;")


def test_without_process_0(address):
    assert join(address, (1,), 2, 0.5)[1].startswith(f"process 0 did not answer at {address} within 0.5 s")


def test_a_port_in_use_and_a_process_of_another_job(address):
    with socket.create_server(("", int(address.rpartition(":")[2]))):
        assert "is in use, perhaps by another job" in join(address, (0,), 2, 0.5)[0]
    found = {}
    for number, processes in ((0, 2), (1, 3)):
        threading.Thread(
            target=lambda n=number, p=processes: found.update(join(address, (n,), p, 0.5)), name=str(number)
        ).start()
    for thread in [each for each in threading.enumerate() if each.name in "01"]:
        thread.join()
    assert "process 1 of 3 is not wanted in the job of 2" in found[1]
    assert "1 of 2 processes did not come" in found[0]


@pytest.fixture
def three(address):
    """Three watched processes, and what ended each of them."""
    found, ended = join(address, range(3), 3, 5), {n: [] for n in range(3)}
    events = {n: threading.Event() for n in range(3)}

    def end(number):
        return lambda *how: (ended[number].append(how), events[number].set())

    peers = {n: Peers(f"process {n}", found[n][0], 0.6, end(n)) for n in range(3)}
    yield peers, ended, events, found
    for each in peers.values():
        each.leave()
        each._watch_thread.join()
    close(found)


def test_a_failure_reaches_all_others(three):
    peers, ended, events, _ = three
    peers[2].fail("error:\nrecord 7 cannot be read", 2)
    assert events[0].wait(5) and events[1].wait(5)
    assert ended[0][0] == ended[1][0] == ("process 2: error: record 7 cannot be read", 2, False)
    assert not ended[2]


def test_a_process_that_is_killed(three):
    _, ended, events, found = three
    found[1][0][0].connection.shutdown(socket.SHUT_RDWR)  # as the kernel does
    assert events[0].wait(5) and events[2].wait(5)
    for number in (0, 2):
        line, *how = ended[number][0]
        assert line.startswith(f"process 1 of 3 on {HOST} has ended without an error of its own")
        assert how == [None, number == 0]  # the others hear of it from process 0


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_process_that_does_not_answer(stopped, three):
    peers, ended, events, _ = three
    peers[stopped]._others = []  # it neither reads nor writes any more
    others = [number for number in range(3) if number != stopped]
    for number in others:
        assert events[number].wait(5)
        assert ended[number][0][0].startswith(f"process {stopped} of 3 on {HOST} has not answered for 0.6 s")


def test_processes_that_leave_one_after_the_other_end_nobody(three):
    peers, ended, events, _ = three
    for number in (2, 0, 1):
        peers[number].leave()  # which also ends its connections
    assert not any(events[number].wait(0.3) for number in range(3)) and not any(ended.values())
