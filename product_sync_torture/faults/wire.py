"""Splits a client's bytes into requests, and recognises the step of the sync in each.

A fault is injected between two steps, and the sync has no hook for that. So the steps are read from the wire protocols:
"Message Flow" and "Message Formats" in PostgreSQL's manual, "Wire Protocol" in MongoDB's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import StrEnum
from typing import Protocol


class Step(StrEnum):
    """The purpose of a request. ``NOISE`` comes from the driver at unknown moments."""

    BEGIN = "begin"
    WRITE = "write"
    COMMIT = "commit"
    CHANGES = "changes"
    PAGE = "page"
    READ_AGAIN = "read again"
    POST_COMMIT_CHECK = "post-commit check"
    OTHER = "other"
    NOISE = "noise"


class Requests(Protocol):
    """The requests of one connection."""

    def feed(self, data: bytes) -> Iterator[tuple[Step, bytes]]:
        """Every complete request with its bytes."""
        ...


# PostgreSQL

#: Codes in place of the version of a start-up message: requests for encryption, before the start-up message.
_ENCRYPTION = frozenset({80877103, 80877104})
_QUERY, _PARSE, _BIND = b"QPB"
#: Messages of the extended protocol (Parse, Bind, Describe, Execute, Close), which a Sync ends.
_UNFINISHED = b"PBDEC"
#: Password, Terminate, and the data, end and failure of a COPY. A start-up message begins with 0.
_NOISE = b"pXdcf\0"
#: The first match counts: the request that begins a batch also asks for the id of its transaction.
_STATEMENTS = (
    (b"pg_current_xact_id", Step.BEGIN),
    (b"INSERT INTO", Step.WRITE),
    (b"UPDATE", Step.WRITE),
    (b"FROM STDIN", Step.WRITE),
    (b"COMMIT", Step.COMMIT),
)


class PostgresRequests:
    """A request is a simple query, or all messages of the extended protocol up to a Sync. A prepared statement is
    executed by its name, so the text of each name is kept."""

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
    """Every message is a request. The driver's own checks of the server are noise."""

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
            return Step.POST_COMMIT_CHECK
        return Step.READ_AGAIN if b"$in\0" in message else Step.PAGE
    if b"$changeStream\0" in message or b"\x12getMore\0" in message:
        return Step.CHANGES
    if any(word in message for word in (b"hello\0", b"ismaster\0", b"isMaster\0", b"endSessions\0")):
        return Step.NOISE
    return Step.OTHER
