"""A network that fails on demand: a TCP proxy that loses an answer, a request, or a whole connection.

Drivers cannot be mocked into a lost COMMIT answer: what the server did and what the client heard must really differ.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit, urlunsplit

_CHUNK: Final = 65_536


@dataclass
class _Loss:
    """The next request that contains ``marker`` breaks the connection of its client. It reaches the server only if
    ``delivered``; the server's side stays open, and the server none the wiser, if ``stranded``."""

    marker: bytes
    delivered: bool
    stranded: bool


class LocalServer:
    """Accepts connections on a free port of this machine. Each is served in a thread until `close`."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        shut(*self._sockets)
        for thread in self._threads:
            thread.join(5)

    def _serve(self, client: socket.socket) -> None:
        raise NotImplementedError

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is shut by `close`
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                self._start(self._serve, client)


class Proxy(LocalServer):
    """Forwards connections to ``host:port`` and breaks them on demand. Made by `proxy`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._loss: _Loss | None = None
        self._stall: bytes | None = None
        self._flows = threading.Event()
        super().__init__()

    def url(self, url: str) -> str:
        """The same address through this proxy."""
        return address_through(url, self.port)

    def lose_answer_to(self, marker: bytes) -> None:
        """The next such request is delivered and carried out; its answer never arrives."""
        self._loss = _Loss(marker, delivered=True, stranded=False)

    def lose_request(self, marker: bytes, *, stranded: bool = False) -> None:
        """The next such request never arrives. ``stranded``: the server still believes in the connection."""
        self._loss = _Loss(marker, delivered=False, stranded=stranded)

    def stall_at(self, marker: bytes) -> None:
        """Such requests, and what follows them, are kept back until `flow_on`: all sides are there, and silent."""
        self._flows.clear()
        self._stall = marker

    def flow_on(self) -> None:
        self._stall = None
        self._flows.set()

    def close(self) -> None:
        self.flow_on()
        super().close()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the server does not answer, or the proxy is closed
            server = socket.create_connection(self._target)
            self._sockets.append(server)
            link = _Link(client, server)
            self._start(_answers, link)
            self._requests(link)

    def _requests(self, link: _Link) -> None:
        with contextlib.suppress(OSError):  # either side, or the proxy, closed it
            while data := link.client.recv(_CHUNK):
                loss = self._loss
                if loss is not None and loss.marker in data:
                    self._loss = None
                    link.break_at(data, loss)
                    return
                if self._stall is not None and self._stall in data:
                    self._flows.wait()
                link.server.sendall(data)
        shut(link.server)


@dataclass
class _Link:
    """A client's connection and the one to the server that stands behind it."""

    client: socket.socket
    server: socket.socket
    deaf: threading.Event = field(default_factory=threading.Event)
    answered: threading.Event = field(default_factory=threading.Event)

    def break_at(self, data: bytes, loss: _Loss) -> None:
        self.deaf.set()
        if loss.delivered:
            self.server.sendall(data)
            self.answered.wait(5)
        shut(self.client)
        if not loss.stranded:
            shut(self.server)


def _answers(link: _Link) -> None:
    with contextlib.suppress(OSError):  # either side, or the proxy, closed it
        while data := link.server.recv(_CHUNK):
            if link.deaf.is_set():
                link.answered.set()
            else:
                link.client.sendall(data)
    shut(link.client)


def address_through(url: str, port: int) -> str:
    """An address with its credentials, led through a local port."""
    parts = urlsplit(url)
    credentials, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{port}"))


@contextmanager
def proxy(url: str) -> Iterator[Proxy]:
    """A proxy before the server of ``url``."""
    parts = urlsplit(url)
    opened = Proxy(parts.hostname or "127.0.0.1", parts.port or 5432)
    try:
        yield opened
    finally:
        opened.close()


def shut(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):  # already closed
            each.shutdown(socket.SHUT_RDWR)
        each.close()
