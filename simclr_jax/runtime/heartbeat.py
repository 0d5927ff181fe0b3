"""The other processes of a run: notices that one is gone, says which, and ends this process too.

Collectives wait for all, so that a run without one of its processes would wait for ever. Process 0 holds a connection
to each of the others. One that is killed closes its connection at once; one whose host loses power or network falls
silent. What process 0 learns, it tells the others. jax has a heartbeat of its own: slower, and it ends the process with
a page of C++. It remains as the second line.
"""

import contextlib
import json
import math
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable

GONE = 69  # exit code: another process is missing. EX_UNAVAILABLE of sysexits.h
BEAT = 2.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without any, after which a process counts as gone
GRACE = 5.0  # seconds in which a process may end by itself, once another has said that it ends by an error
_ADMISSION = 30.0  # seconds for the connections at the start, when all processes are known to be there

AGAIN = "start the same command again on all hosts; it resumes from the last checkpoint"


class Server:
    """Where process 0 waits for the connections of the others.

    Attributes:
      address: what they need to know to connect, in a line.
    """

    def __init__(self, hosts: list[str]):
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        self._socket = socket.create_server(("", 0), family=family, dualstack_ipv6=dual, backlog=1024)
        self._secret = secrets.token_hex(16)
        self.address = json.dumps([hosts, self._socket.getsockname()[1], self._secret])

    def admit(self, count: int, seconds: float = _ADMISSION) -> dict[int, "Link"]:
        """Returns links to the processes that came, by their index; ``count`` of them, or those of ``seconds``."""
        links, deadline = {}, time.monotonic() + seconds
        with self._socket:
            while len(links) < count and (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                # Whoever else scans the ports of a cluster may connect too, and say anything or nothing: a stranger
                # costs 5 seconds at most, and never the run.
                with contextlib.suppress(OSError, ValueError, TypeError), contextlib.ExitStack() as to_close:
                    connection = to_close.enter_context(self._socket.accept()[0])
                    connection.settimeout(min(left, 5.0))
                    with connection.makefile("rb") as lines:
                        secret, index, host = json.loads(lines.readline(4096))
                    if secrets.compare_digest(str(secret).encode(), self._secret.encode()):
                        links[int(index)] = Link(connection, f"process {int(index)} ({host})")
                        to_close.pop_all()
        return links


def connect(address: str, index: int) -> "Link":
    """Returns process ``index``'s link to process 0, at the address of its server; raises OSError."""
    hosts, port, secret = json.loads(address)
    errors = []
    for host in hosts:
        try:
            connection = socket.create_connection((host, port), timeout=5.0)
        except OSError as error:
            errors.append(f"{host}: {error}")
            continue
        connection.sendall(json.dumps([secret, index, socket.gethostname()]).encode() + b"\n")
        return Link(connection, f"process 0 ({hosts[-1]})")
    raise OSError("; ".join(errors))


class Link:
    """A connection to another process, and when it was heard last."""

    def __init__(self, connection: socket.socket, name: str):
        connection.settimeout(1.0)
        self.connection, self.name = connection, name
        self.heard = time.monotonic()
        self._rest = b""

    def say(self, message: dict) -> None:
        """Sends a message; {} is a sign of life."""
        with contextlib.suppress(OSError):  # one that is gone is noticed when it is listened to
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def listen(self) -> list[dict] | None:
        """Returns the messages that came; None where the connection is closed."""
        try:
            received = self.connection.recv(65536)
        except TimeoutError:
            return []
        except OSError:
            return None
        if not received:
            return None
        self.heard = time.monotonic()
        *lines, self._rest = (self._rest + received).split(b"\n")
        return [json.loads(line) for line in lines if line]


class Heartbeat:
    """Gives signs of life to other processes and waits for theirs, in a thread, until this one leaves or one is gone.

    Args:
      links: by the index of the other process: all of them for process 0, that to process 0 for the others.
      on_gone: is called once, with a line that names the process that is gone. By default it ends this process.
      beat, silence, grace: as the constants of this module.
    """

    def __init__(
        self,
        links: dict[int, Link],
        *,
        on_gone: Callable[[str], None] | None = None,
        beat: float = BEAT,
        silence: float = SILENCE,
        grace: float = GRACE,
    ):
        self._links, self._on_gone = links, on_gone or end
        self._beat, self._silence, self._grace = beat, silence, grace
        self._first = 0 not in links
        self._finished: list[Link] = []  # kept open: to close one with something unheard in it would reset it
        self._left, self._failed = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="peers", daemon=True)
        self._thread.start()

    def leave(self, reason: str = "") -> None:
        """Tells the others that this process ends: as it should, or by an error, after which they end too."""
        self._failed = bool(reason)
        self._left.set()  # before it is told: they may close their connections as soon as they know
        self._tell({"left": reason})

    def wait(self) -> None:
        """Waits until the others have had time to end, or to be found gone, which ends this process."""
        self._thread.join(3 * self._grace)

    def _run(self) -> None:
        found = self._watch()
        if found:
            line, grace = found
            if self._first:
                self._tell({"gone": found})
            self._left.wait(grace)  # this process may be about to end by an error of its own, which says more
        if self._left.is_set() and not self._failed:
            self._listen_on()
        elif self._first:  # with process 0 ends jax's service, and by that the others at once: they go first
            self._listen_on(self._grace)
        elif self._failed:
            self._listen_on(self._beat)
        if found and not self._left.is_set():
            self._on_gone(line)

    def _watch(self) -> tuple[str, float] | None:
        """Returns who is gone, and how long to wait for the end of this process; None when it leaves first."""
        beaten = 0.0
        while self._links and not self._left.is_set():
            if time.monotonic() - beaten >= self._beat:
                beaten = time.monotonic()
                self._tell({})
            for index in self._heard(self._beat / 4):  # often, so that to leave does not take a whole beat
                link = self._links[index]
                silent, messages = time.monotonic() - link.heard, link.listen()
                if messages is None:
                    del self._links[index]
                    return f"{link.name} is gone, last heard from {silent:.1f} s ago", 0.0
                for message in messages:
                    if "gone" in message:
                        return tuple(message["gone"])
                    if message.get("left"):
                        return f"{link.name} ended with an error: {message['left']}", self._grace
                    if "left" in message:  # it has finished; what comes after, even a closed connection, is no fault
                        self._finished.append(self._links.pop(index))
            for link in self._links.values():
                # A host without power or network closes nothing: only its silence tells.
                if time.monotonic() - link.heard > self._silence:
                    return f"{link.name} has not been heard from for {self._silence:g} s", 0.0
        return None

    def _listen_on(self, seconds: float = math.inf) -> None:
        """Listens until the others have closed their connections.

        To close one with something unheard in it would reset it, and what was said last would be lost on its way.
        """
        deadline = time.monotonic() + seconds
        while self._links and time.monotonic() < deadline:
            for index in self._heard(self._beat / 4):
                if self._links[index].listen() is None:
                    del self._links[index]

    def _heard(self, seconds: float) -> list[int]:
        """Waits for something to listen to, and returns from whom."""
        with selectors.DefaultSelector() as selector:
            for index, link in self._links.items():
                selector.register(link.connection, selectors.EVENT_READ, index)
            return [key.data for key, _ in selector.select(seconds)]

    def _tell(self, message: dict) -> None:
        for link in list(self._links.values()):
            link.say(message)


def end(line: str) -> None:
    """Ends this process with exit code 69 and a line that says why."""
    sys.stdout.flush()
    print(f"\nerror: {line}; {AGAIN}", file=sys.stderr, flush=True)
    os._exit(GONE)
