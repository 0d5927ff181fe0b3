"""Processes as threads with real connections: each notices who is gone, and nobody is suspected wrongly."""

import contextlib
import json
import socket
import threading

import pytest

from simclr_jax.runtime import heartbeat

QUICK = {"beat": 0.05, "silence": 0.5, "grace": 0.4}


@pytest.fixture(name="processes")
def make_processes():
    made = []

    def make(count):
        made.append(Processes(count))
        return made[-1]

    yield make
    for run in made:
        for watch in run.watches.values():
            watch.leave()
        for link in run.all_links:
            close(link)
        for watch in run.watches.values():
            watch.wait()
        for link in run.all_links:
            link.connection.close()


class Processes:
    """Some watches, each in the place of a process, and what they found."""

    def __init__(self, count):
        server = heartbeat.Server(["localhost"])
        links = {}
        thread = threading.Thread(target=lambda: links.update(server.admit(count - 1, 10)))
        thread.start()
        self.links = {index: {0: heartbeat.connect(server.address, index)} for index in range(1, count)}
        thread.join()
        self.links[0] = links
        self.all_links = [link for links in self.links.values() for link in links.values()]
        self.found = {index: [] for index in range(count)}
        self.watches = {}

    def watch(self, *indices):
        for index in indices:
            self.watches[index] = heartbeat.Heartbeat(self.links[index], on_gone=self.found[index].append, **QUICK)
        return self

    def settle(self):
        for watch in self.watches.values():
            watch.wait()
        return {index: lines[0] if lines else "" for index, lines in self.found.items()}


def close(link):
    with contextlib.suppress(OSError):
        link.connection.shutdown(socket.SHUT_RDWR)


def test_one_that_is_killed_is_named_by_all_others(processes):
    run = processes(4).watch(0, 1, 3)
    close(run.links[2][0])
    found = run.settle()
    assert not found.pop(2)
    assert all(
        line.startswith(f"process 2 ({socket.gethostname()}) is gone, last heard from") for line in found.values()
    )


def test_process_0_is_named_when_it_is_killed(processes):
    run = processes(3).watch(1, 2)
    for link in run.links[0].values():
        close(link)
    assert all("process 0 (localhost) is gone" in line for index, line in run.settle().items() if index)


def test_one_that_falls_silent_is_named(processes):
    run = processes(3).watch(0, 1)  # process 2 has a connection and says nothing
    found = run.settle()
    assert "process 2 (" in found[0] and "has not been heard from for 0.5 s" in found[0]
    assert found[1] == found[0]


def test_an_error_is_told_and_ends_the_others(processes):
    run = processes(3).watch(0, 1, 2)
    run.watches[1].leave("the disk is full")
    found = run.settle()
    assert not found[1]
    assert found[0] == found[2] == f"process 1 ({socket.gethostname()}) ended with an error: the disk is full"


def test_those_that_end_by_the_same_error_tell_of_their_own(processes):
    run = processes(3).watch(0, 1, 2)
    for watch in run.watches.values():
        watch.leave("the loss is not finite")
    assert not any(run.settle().values())


def test_nobody_is_missed_who_has_finished(processes):
    run = processes(3).watch(0, 1, 2)
    for index in (2, 0, 1):
        run.watches[index].leave()
    assert not any(run.settle().values())


@pytest.mark.parametrize("words", [b"", b"GET / HTTP/1.1\r\n\r\n", json.dumps(["guess", 1, "a"]).encode() + b"\n"])
def test_strangers_are_not_let_in(words):
    server = heartbeat.Server(["localhost"])
    with socket.create_connection(("localhost", json.loads(server.address)[1])) as stranger:
        stranger.sendall(words)
        stranger.shutdown(socket.SHUT_WR)
        assert server.admit(1, 0.5) == {}
