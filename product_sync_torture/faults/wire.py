"""Cuts what a client sends into requests, and names the step of the sync that each belongs to.

A fault is to strike between two given steps, and the sync must not help with that: it has no hook for it. So the steps
are read off the wire. PostgreSQL: "Message Flow" and "Message Formats" of the manual; MongoDB: "Wire Protocol".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import StrEnum
from typing import Protocol


class Step(StrEnum):
    """What a request is for. ``OTHER`` is whatever else a run asks; ``NOISE`` comes of itself, at no known moment."""

    BEGIN = "begin"
    WRITE = "write"
    COMMIT = "commit"
    PAGE = "page"
    READ_AGAIN = "read again"
    LOOK = "look"
    OTHER = "other"
    NOISE = "noise"


class Requests(Protocol):
    """The requests of one connection."""

    def feed(self, data: bytes) -> Iterator[tuple[Step, bytes]]:
        """Every request that is complete now, with its bytes."""
        ...


# PostgreSQL

#: Codes that stand where a start-up message has its version: requests for encryption, after which it is still to come.
_ENCRYPTION = frozenset({80877103, 80877104})
_QUERY, _PARSE, _BIND = b"QPB"
#: Messages of the extended protocol (Parse, Bind, Describe, Execute, Close) which a Sync has to follow.
_UNFINISHED = b"PBDEC"
#: Password, Terminate, and what comes after a COPY: data, its end, its failure. A start-up message begins with 0.
_NOISE = b"pXdcf\0"
#: In this order: what begins a batch asks for the id of its transaction in the same request.
_STATEMENTS = (
    (b"pg_current_xact_id", Step.BEGIN),
    (b"INSERT INTO", Step.WRITE),
    (b"UPDATE", Step.WRITE),
    (b"FROM STDIN", Step.WRITE),
    (b"COMMIT", Step.COMMIT),
)


class PostgresRequests:
    """A simple query is a request; of the extended protocol, all up to a Sync. A prepared statement is named only when
    it is executed, so what was prepared under the name is remembered."""

    def __init__(self) -> None:
        self._data = b""
        self._request = b""
        self._texts: list[bytes] = []
        self._prepared: dict[bytes, bytes] = {}
        self._has_started = False
        self._in_batch = False

    def feed(self, data: bytes) -> Iterator[tuple[Step, bytes]]:
        self._data += data
        while (message := self._next_message()) is not None:
            self._request += message
            if self._is_complete(message):
                yield self._step(message), self._request
                self._request, self._texts = b"", []

    def _next_message(self) -> bytes | None:
        head = 1 if self._has_started else 0
        if len(self._data) < head + 4:
            return None
        end = head + int(struct.unpack_from("!I", self._data, head)[0])
        if len(self._data) < end:
            return None
        message, self._data = self._data[:end], self._data[end:]
        return message

    def _is_complete(self, message: bytes) -> bool:
        if not self._has_started:
            self._has_started = struct.unpack_from("!I", message, 4)[0] not in _ENCRYPTION
            return True
        kind, body = message[0], message[5:]
        if kind == _PARSE:
            name, text = body.split(b"\0", 2)[:2]
            self._prepared[name] = text
        elif kind == _BIND:
            self._texts.append(self._prepared.get(body.split(b"\0", 2)[1], b""))
        elif kind == _QUERY:
            self._texts.append(body)
        return kind not in _UNFINISHED

    def _step(self, message: bytes) -> Step:
        if message[0] in _NOISE:
            return Step.NOISE
        step = next((step for part, step in _STATEMENTS for text in self._texts if part in text), Step.OTHER)
        if step is Step.BEGIN:
            self._in_batch = True
        elif not self._in_batch:
            return Step.OTHER
        elif step is Step.COMMIT:
            self._in_batch = False
        return step


# MongoDB

_HEADER_BYTES = 16
_ONLY_IDS = b"\x03projection\0\x0e\0\0\0\x10_id\0\x01\0\0\0\0"


class MongoRequests:
    """Every message is a request. What the driver asks to see whether the server is there is noise."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> Iterator[tuple[Step, bytes]]:
        self._data += data
        while len(self._data) >= _HEADER_BYTES:
            end = int(struct.unpack_from("<i", self._data)[0])
            if len(self._data) < end:
                return
            message, self._data = self._data[:end], self._data[end:]
            yield _mongo_step(message), message


def _mongo_step(message: bytes) -> Step:
    if b"\x02find\0" in message:
        if _ONLY_IDS in message:
            return Step.LOOK
        return Step.READ_AGAIN if b"$in\0" in message else Step.PAGE
    if any(word in message for word in (b"hello\0", b"ismaster\0", b"isMaster\0", b"endSessions\0")):
        return Step.NOISE
    return Step.OTHER
