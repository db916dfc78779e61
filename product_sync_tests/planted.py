"""Passwords that are planted, and a search for them in everything that a run leaves behind.

A file that is compressed, or a database, hides a text from a search of its bytes. So Parquet files are also read, and
SQLite databases written out. And a password need not appear as it is: addresses have it percent-encoded, and protocols
and dumps in base64, where it looks different at each of three positions.
"""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote, quote_plus

import pyarrow as pa

_SQLITE: Final = b"SQLite format 3\0"
_ARROW: Final = b"ARROW1"


def forms(secret: str) -> set[str]:
    """How ``secret`` may be written."""
    raw = secret.encode()
    encoded = {base64.b64encode(b"\0" * before + raw).decode() for before in range(3)}
    encoded |= {base64.urlsafe_b64encode(b"\0" * before + raw).decode() for before in range(3)}
    # The first four and the last four characters depend on what stands before and behind.
    return {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]} | {
        text[4:-4] for text in encoded
    }


def findings(places: Iterable[Path], said: str, secrets: Iterable[str]) -> list[str]:
    """Where one of ``secrets`` stands in any form: in the files below ``places``, or in ``said``."""
    wanted = {form for secret in secrets for form in forms(secret)}
    texts = [("what was said", said), *(found for place in places for found in _texts(place))]
    return [f"{where}: {form}" for where, text in texts for form in wanted if form in text]


def _texts(place: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(path for path in place.rglob("*") if path.is_file()):
        yield str(path), str(path)
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # a process that still ends removes SQLite's files beside a database
            continue
        yield str(path), content.decode(errors="replace")
        if content.startswith(_ARROW):
            table = pa.ipc.open_file(content).read_all()
            yield str(path), f"{table.schema.metadata} {table.to_pylist()}"
        elif content.startswith(_SQLITE):
            with closing(sqlite3.connect(path)) as database:
                yield str(path), "\n".join(database.iterdump())
