"""A small pooler, as PgBouncer is one. In transaction mode each transaction gets whatever session is free; in session
mode a client keeps its session; in statement mode a client that begins a transaction is sent away.

It exists to prove that one is found out. Clients are let in without a password; the sessions behind are opened by
psycopg with the real credentials, and their sockets are then spoken over directly (protocol 3.0, manual chapter 54).
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from product_sync_tests.network import LocalServer, address_through, shut

_SSL_REQUEST: Final = 80877103
_GSS_REQUEST: Final = 80877104
_IDLE: Final = b"I"


class Pooler(LocalServer):
    """Lends ``sessions`` server sessions to its clients, as ``mode`` says, the last one returned first."""

    def __init__(self, url: str, sessions: int, mode: str) -> None:
        self._mode = mode
        self._connections = [psycopg.connect(url, autocommit=True) for _ in range(sessions)]
        self._free: queue.LifoQueue[socket.socket] = queue.LifoQueue()
        for connection in self._connections:
            session = socket.socket(fileno=os.dup(connection.fileno()))
            session.setblocking(True)
            self._free.put(session)
        self._sessions = list(self._free.queue)
        self._real_url = url
        super().__init__()

    @property
    def url(self) -> str:
        return address_through(self._real_url, self.port)

    def close(self) -> None:
        shut(*self._sessions)
        super().close()
        for connection in self._connections:
            connection.close()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, EOFError):  # the client is gone, or sent away
            self._welcome(client)
            if self._mode == "session":
                self._whole_session(client)
                return
            while True:
                self._transaction(client)

    def _whole_session(self, client: socket.socket) -> None:
        """Keep one session for the client until it leaves."""
        kind, body = _read(client)
        session = self._free.get()
        try:
            while True:
                session.sendall(_message(kind, body))
                if kind in (b"Q", b"S"):
                    self._answer(session, client)
                kind, body = _read(client)
        finally:
            _roll_back(session)
            self._free.put(session)

    def _welcome(self, client: socket.socket) -> None:
        """Answer the startup ourselves: no encryption, no password, the settings of the real server."""
        while True:
            (length,) = struct.unpack("!I", _exactly(client, 4))
            request = _exactly(client, length - 4)
            if struct.unpack_from("!I", request)[0] not in (_SSL_REQUEST, _GSS_REQUEST):
                break
            client.sendall(b"N")
        info = self._connections[0].info
        settings = {
            name: info.parameter_status(name) or ""
            for name in ("server_version", "client_encoding", "standard_conforming_strings", "integer_datetimes")
        }
        client.sendall(
            _message(b"R", struct.pack("!I", 0))
            + b"".join(_message(b"S", f"{name}\0{value}\0".encode()) for name, value in settings.items())
            + _message(b"K", struct.pack("!II", 1, 1))
            + _message(b"Z", _IDLE)
        )

    def _transaction(self, client: socket.socket) -> None:
        """Wait for a request, borrow a session, and keep it until it is idle again."""
        kind, body = _read(client)
        if self._mode == "statement" and body.upper().startswith(b"BEGIN"):
            words = b"SFATAL\0C08P01\0Mtransaction blocks not allowed in statement pooling mode\0\0"
            client.sendall(_message(b"E", words))
            raise EOFError
        session = self._free.get()
        try:
            while True:
                session.sendall(_message(kind, body))
                # A simple query and a Sync are answered up to ReadyForQuery, everything else is only sent on.
                if kind in (b"Q", b"S") and self._answer(session, client) == _IDLE:
                    return
                kind, body = _read(client)
        except EOFError:
            # The client left in mid-transaction. Whoever is lent the session next must not find himself in it.
            _roll_back(session)
            raise
        finally:
            self._free.put(session)

    @staticmethod
    def _answer(session: socket.socket, client: socket.socket) -> bytes:
        while True:
            kind, body = _read(session)
            client.sendall(_message(kind, body))
            if kind == b"Z":
                return body


@contextmanager
def transaction_pooler(url: str, *, sessions: int = 3, mode: str = "transaction") -> Iterator[Pooler]:
    """A pooler before the server of ``url``."""
    pooler = Pooler(url, sessions, mode)
    try:
        yield pooler
    finally:
        pooler.close()


def _roll_back(session: socket.socket) -> None:
    session.sendall(_message(b"Q", b"ROLLBACK\0"))
    while _read(session) != (b"Z", _IDLE):
        pass


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def _read(source: socket.socket) -> tuple[bytes, bytes]:
    """One message: its kind and its body. Raises `EOFError` at the end, and when the client says goodbye."""
    kind = _exactly(source, 1)
    (length,) = struct.unpack("!I", _exactly(source, 4))
    if kind == b"X":
        raise EOFError
    return kind, _exactly(source, length - 4)


def _exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data
