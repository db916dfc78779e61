"""Reads a quarantine file entry by entry, in memory that does not grow with the file.

It needs no layout and no database: whoever asks why products are missing may have access to neither side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from product_sync.schema.row_schema import ID_TYPE
from product_sync.state.files import opened

_PAGE_ROWS = 1_024
#: All columns but the values that were refused, which have the names of the target's columns.
_COLUMNS = [
    "source_key", "id", ID_TYPE, "stage", "columns", "reasons", "values", "first_seen", "last_seen", "attempts",
    "run_id",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class EntryCounts:
    """``total`` entries, ``matching`` of them with one of the wanted reasons; entries by reason, each of an entry's
    reasons once."""

    total: int
    matching: int
    by_reason: dict[str, int]


def count_entries(path: Path, wanted: Collection[str] = ()) -> EntryCounts:
    """Count the entries; without ``wanted`` all of them match."""
    total, matching, by_reason = 0, 0, Counter[str]()
    with opened(path) as file:
        for page in file.iter_batches(batch_size=_PAGE_ROWS, columns=["reasons"]):
            for reasons in page.column(0).to_pylist():
                total += 1
                matching += _matches(reasons, wanted)
                by_reason.update(set(reasons))
    return EntryCounts(total, matching, dict(sorted(by_reason.items())))


def entries(path: Path, wanted: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """The entries that have one of the wanted reasons, in the order of the file, with all that is wrong with them.

    Moments are in microseconds since 1970, UTC, as ``first_seen_us`` and ``last_seen_us``.
    """
    with opened(path) as file:
        for page in file.iter_batches(batch_size=_PAGE_ROWS, columns=_COLUMNS):
            for entry in _plain(page).to_pylist():
                if _matches(entry["reasons"], wanted):
                    yield entry


def _plain(page: pa.RecordBatch) -> pa.RecordBatch:
    """Python's calendar ends with the year 9999, and pandas would be asked for moments."""
    for name in ("first_seen", "last_seen"):
        place = page.schema.get_field_index(name)
        page = page.set_column(place, f"{name}_us", pc.cast(page.column(place), pa.int64()))
    return page


def _matches(reasons: Collection[str], wanted: Collection[str]) -> bool:
    return not wanted or not set(wanted).isdisjoint(reasons)
