"""A TCP proxy that stops at a chosen request, until the fault has been injected.

It forwards whole requests (`wire`), so a stopped request is either not sent or already answered by the server.
(`product_sync_tests.network` has the proxy of the tests, which loses single messages.)
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from product_sync_torture.faults.wire import Requests, Step

_CHUNK: Final = 65_536
_ANSWER_S: Final = 30.0
#: Close with RST instead of FIN (``SO_LINGER`` with a time of zero).
_RESET: Final = struct.pack("ii", 1, 0)


class Side(Enum):
    """Stop before the request reaches the server, or after the server has answered and before the client knows."""

    BEFORE = "before"
    AFTER = "after"


class Way(Enum):
    """How a stopped connection goes on. With `STRAND` the client's side is reset and the server does not notice."""

    ON = "on"
    RESET = "reset"
    STRAND = "strand"


@dataclass
class Stop:
    """Stops the ``nth`` request (from 1) of ``steps``. ``reached`` is set then, until `go_on` is called."""

    steps: Collection[Step]
    nth: int
    side: Side
    reached: threading.Event = field(default_factory=threading.Event)
    _decided: threading.Event = field(default_factory=threading.Event)
    _way: Way = Way.ON
    _seen: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def go_on(self, way: Way = Way.ON) -> None:
        if not self._decided.is_set():
            self._way = way
            self._decided.set()

    def meets(self, step: Step) -> bool:
        if step not in self.steps:
            return False
        with self._lock:
            self._seen += 1
            return self._seen == self.nth

    def wait(self) -> Way:
        self.reached.set()
        self._decided.wait()
        return self._way


@dataclass(eq=False)
class _Link:
    """A client's connection and the one to the server that stands behind it."""

    client: socket.socket
    server: socket.socket
    requests: Requests
    held: threading.Event = field(default_factory=threading.Event)
    answered: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)


class Gate:
    """Forwards all connections to a local port. ``requests`` splits the bytes of a client into requests."""

    def __init__(self, port: int, requests: Callable[[], Requests]) -> None:
        self._target = ("127.0.0.1", port)
        self._requests = requests
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        self._stop: Stop | None = None
        self._start(self._accept)

    def stop_at(self, stop: Stop | None) -> None:
        """Only the last stop counts. A stop that is already reached still needs `Stop.go_on`."""
        self._stop = stop

    def hold(self) -> None:
        """Forward nothing in either direction, and keep the connections open."""
        self._open.clear()

    def let_through(self) -> None:
        self._open.set()

    def reset(self) -> None:
        """Reset all connections of the clients. The server sees them closed."""
        with self._lock:
            links = list(self._links)
        for link in links:
            _reset(link.client)
            self._forget(link)

    def close(self) -> None:
        self._open.set()
        if self._stop is not None:
            self._stop.go_on(Way.RESET)
        _shut(self._listener)
        self.reset()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is shut when the gate closes
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(self._target)
                except OSError:  # the server is down: refuse its clients
                    _reset(client)
                    continue
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                link = _Link(client, server, self._requests())
                with self._lock:
                    self._links.add(link)
                self._start(self._forward, link)
                self._start(self._answer, link)

    def _forward(self, link: _Link) -> None:
        with contextlib.suppress(OSError):  # either side, or the gate, closed it
            while data := link.client.recv(_CHUNK):
                for step, request in link.requests.feed(data):
                    self._open.wait()
                    stop = self._stop
                    if stop is None or not stop.meets(step):
                        link.server.sendall(request)
                    elif self._stop_here(link, stop, request):
                        return
        self._forget(link)

    def _forget(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)
        _shut(link.server)

    def _stop_here(self, link: _Link, stop: Stop, request: bytes) -> bool:
        """Whether the client's connection was ended."""
        if stop.side is Side.AFTER:
            link.held.set()
            link.server.sendall(request)
            link.answered.wait(_ANSWER_S)
        way = stop.wait()
        if way is Way.ON:
            if stop.side is Side.BEFORE:
                link.server.sendall(request)
        else:
            _reset(link.client)
            if way is Way.RESET:
                self._forget(link)
        link.released.set()
        return way is not Way.ON

    def _answer(self, link: _Link) -> None:
        with contextlib.suppress(OSError):  # either side, or the gate, closed it
            while data := link.server.recv(_CHUNK):
                self._open.wait()
                if link.held.is_set():
                    link.answered.set()
                    link.released.wait()
                    link.held.clear()
                link.client.sendall(data)
        _shut(link.client)


def _reset(client: socket.socket) -> None:
    with contextlib.suppress(OSError):  # already closed
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        # Wakes the thread that reads from it, without a FIN. The socket is closed when no thread uses it any more.
        client.shutdown(socket.SHUT_RD)
    client.close()


def _shut(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):  # already closed
            each.shutdown(socket.SHUT_RDWR)
        each.close()
