"""Compares the target with the source after a run, and the table's shape with what it was before.

It uses no code of product_sync, so that a fault of ours cannot hide itself. Both sides become lines in the text format
of COPY, sorted by id. If their digests differ, the lines are compared one by one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg
from pymongo import MongoClient

_FIELDS: Final = ("_id", "title", "price", "image", "sellerId", "quantity")
_ESCAPES: Final = str.maketrans(
    {"\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\v": "\\v", "\f": "\\f", "\r": "\\r"}
)

# sorted_rows: in the order of the bytes of the id, which is that of ObjectIds in the source.
_SORTED_ROWS: LiteralString = """
COPY (SELECT id, title, price, image, "sellerId", quantity FROM product ORDER BY id COLLATE "C") TO STDOUT
"""

# columns, constraints: the shape of the table, and who references it.
_COLUMNS: LiteralString = """
SELECT attname, format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END
FROM pg_attribute WHERE attrelid = to_regclass('public.product') AND attnum > 0 AND NOT attisdropped
"""
_CONSTRAINTS: LiteralString = """
SELECT conrelid::regclass || ' ' || conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE contype <> 'n' AND to_regclass('public.product') IN (conrelid, confrelid)
"""

# relations: tables that anyone can see, to find those that were left behind.
_RELATIONS: LiteralString = """
SELECT schemaname || '.' || tablename, '' FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """Names and definitions of the table's columns and constraints, and the names of all tables beside it."""

    columns: dict[str, str]
    constraints: dict[str, str]
    tables: frozenset[str]


@dataclass(slots=True)
class Verdict:
    """What is wrong; nothing is if all is empty. ``altered_table`` are sentences, ``left_behind`` names of tables."""

    missing: int = 0
    differing: int = 0
    extra: int = 0
    altered_table: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)
    unreadable: str = ""

    @property
    def rows_are_right(self) -> bool:
        return not (self.missing or self.differing or self.extra or self.unreadable)


def write_expected(mongodb_url: str, file: Path) -> str:
    """Write the source as sorted lines to ``file``; their digest. The catalogue's values need no conversion rules."""
    digest = hashlib.blake2b()
    with MongoClient[dict[str, Any]](mongodb_url) as client, file.open("wb") as output:
        documents = client.get_default_database()["products"].find({}, dict.fromkeys(_FIELDS, 1), batch_size=5_000)
        for document in documents.sort("_id", 1):
            written = line([document[name] for name in _FIELDS])
            digest.update(written)
            output.write(written)
    return digest.hexdigest()


def line(values: Iterable[object]) -> bytes:
    """A row in the text format of COPY. Ids and numbers as they print, text escaped."""
    texts = ("\\N" if value is None else str(value).translate(_ESCAPES) for value in values)
    return ("\t".join(texts) + "\n").encode()


def verify(target_url: str, expected: Path, expected_digest: str, before: Shape) -> Verdict:
    """Compare the target with the lines of ``expected``, and its shape with what it was ``before``."""
    verdict = Verdict()
    try:
        with psycopg.connect(target_url) as connection:
            after = shape(connection)
            describe_changes(before, after, verdict)
            if _digest(connection) != expected_digest:
                with expected.open("rb") as lines:
                    count_differences(lines, _rows(connection), verdict)
    except psycopg.Error as error:
        verdict.unreadable = str(error).splitlines()[0]
    return verdict


def shape(connection: psycopg.Connection[Any]) -> Shape:
    columns = dict(connection.execute(_COLUMNS).fetchall())
    constraints = dict(connection.execute(_CONSTRAINTS).fetchall())
    tables = frozenset(name for name, _ in connection.execute(_RELATIONS).fetchall())
    return Shape(columns, constraints, tables)


def describe_changes(before: Shape, after: Shape, verdict: Verdict) -> None:
    """Say into ``verdict`` how ``after`` differs from ``before``."""
    for kind, old, new in (("", before.columns, after.columns), ("constraint ", before.constraints, after.constraints)):
        for name in old | new:
            if name not in new:
                verdict.altered_table.append(f"{kind}{name} dropped")
            elif name not in old:
                verdict.altered_table.append(f"{kind}{name} added")
            elif old[name] != new[name]:
                verdict.altered_table.append(f"{kind}{name}: {old[name]} became {new[name]}")
    verdict.left_behind += sorted(after.tables - before.tables)


def count_differences(expected: Iterable[bytes], actual: Iterable[bytes], verdict: Verdict) -> None:
    """Count into ``verdict`` where two streams of lines, each sorted by id, differ. An id that comes twice is extra."""
    left, right = iter(expected), iter(actual)
    wanted, found = next(left, None), next(right, None)
    while wanted is not None or found is not None:
        wanted_id, found_id = _id(wanted), _id(found)
        if found_id is None or (wanted_id is not None and wanted_id < found_id):
            verdict.missing += 1
            wanted = next(left, None)
        elif wanted_id is None or found_id < wanted_id:
            verdict.extra += 1
            found = next(right, None)
        else:
            verdict.differing += wanted != found
            wanted, found = next(left, None), next(right, None)


def _id(written: bytes | None) -> bytes | None:
    return None if written is None else written.partition(b"\t")[0]


def _digest(connection: psycopg.Connection[Any]) -> str:
    digest = hashlib.blake2b()
    with connection.cursor().copy(_SORTED_ROWS) as copy:
        for block in copy:
            digest.update(block)
    return digest.hexdigest()


def _rows(connection: psycopg.Connection[Any]) -> Iterator[bytes]:
    """The target's lines. The server sends a line in a block of its own."""
    with connection.cursor().copy(_SORTED_ROWS) as copy:
        for block in copy:
            yield bytes(block)
