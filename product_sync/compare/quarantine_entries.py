"""Reads the quarantine for people, entry by entry, in memory that does not grow with the file.

It needs neither a row schema nor a database: the person who asks why products are missing may have access to neither
side.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from product_sync.state.files import opened, pages, read_schema

_PAGE_ROWS = 1_024


def count_matching(path: Path, wanted: Collection[str]) -> int:
    """The number of entries that have one of the wanted reasons."""
    with opened(path) as file:
        read = pages(file, rows=_PAGE_ROWS, columns=["reasons"])
        return sum(not set(wanted).isdisjoint(reasons) for page in read for reasons in page.column(0).to_pylist())


def entries(path: Path, wanted: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """The entries that have one of the wanted reasons, or all entries, in the order of the file.

    They lack the refused values, which have the names of the target's columns. Times are microseconds since 1970, UTC,
    as ``first_seen_us`` and ``last_seen_us``, because Python's calendar ends with the year 9999.
    """
    for entry in _read(path):
        if not wanted or not set(wanted).isdisjoint(entry["reasons"]):
            yield entry


def entries_of(path: Path, ids: Collection[str], keys: Collection[str]) -> list[dict[str, Any]]:
    """The entries that have one of these text ids or one of these ``source_key``, in the form of `entries`."""
    texts, wanted = pa.array(list(ids), pa.string()), pa.array(list(keys), pa.string())
    return list(_read(path, lambda page: pc.or_(pc.is_in(page["id"], texts), pc.is_in(page["source_key"], wanted))))


def _read(path: Path, chosen: Callable[[pa.RecordBatch], pa.Array] | None = None) -> Iterator[dict[str, Any]]:
    names = [name for name in read_schema(path).names if name != "refused"]
    with opened(path) as file:
        for page in pages(file, rows=_PAGE_ROWS, columns=names):
            rows = page.filter(chosen(page)) if chosen else page
            for name in ("first_seen", "last_seen"):
                rows = rows.append_column(f"{name}_us", rows[name].cast(pa.int64())).drop_columns([name])
            yield from rows.to_pylist()
