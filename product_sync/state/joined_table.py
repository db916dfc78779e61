"""Reads several Parquet files as one: the table of a run whose shards have each written a part of it.

The path of the table holds the names of its parts (`files.join`). `files.opened` reads either kind, so whoever reads a
table does not know how many files it has (docs/decisions/0194).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from product_sync.state.mirror import here, mirror_of


def joined_as_bytes(folder: Path, parts: Iterable[Path], metadata: Mapping[str, str]) -> bytes:
    """The content of the file in ``folder`` that stands for a table of these parts, with this metadata."""
    names = [path.relative_to(folder).as_posix() for path in parts]
    return json.dumps({"parts": names, "metadata": dict(metadata)}).encode()


def joined_at(path: Path) -> JoinedTable | None:
    """The table at ``path``, if it has several files. A Parquet file begins with its own mark."""
    if (mirror := mirror_of(path)) and mirror.is_large(path):
        return None
    with here(path).open("rb") as file:
        if file.read(1) != b"{":
            return None
        content = json.loads(b"{" + file.read())
    return JoinedTable([path.parent / part for part in content["parts"]], content["metadata"])


def footer(path: Path) -> Any:
    """The metadata of a Parquet file. A large one in a store is not fetched for it."""
    mirror = mirror_of(path)
    entry = mirror.entry(path) if mirror and mirror.is_large(path) else None
    found = mirror.objects.read(entry.name, pq.read_metadata) if mirror and entry else None
    return found or pq.read_metadata(here(path))


class JoinedTable:
    """As much of `pq.ParquetFile` as the program uses. One part is open at a time. ``own_metadata`` is that of the
    table."""

    def __init__(self, parts: Sequence[Path], own_metadata: Mapping[str, str]) -> None:
        self._parts = parts
        self.own_metadata = own_metadata
        self._open: tuple[int, Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def metadata(self) -> Self:
        """The counts and the row groups, as of `pq.FileMetaData`."""
        return self

    @cached_property
    def _metadata(self) -> list[Any]:
        return [footer(path) for path in self._parts]

    @cached_property
    def _groups(self) -> list[tuple[int, int]]:
        """The part of each row group, and its place in there."""
        return [(part, group) for part, each in enumerate(self._metadata) for group in range(each.num_row_groups)]

    @property
    def num_rows(self) -> int:
        return sum(each.num_rows for each in self._metadata)

    @property
    def num_row_groups(self) -> int:
        return len(self._groups)

    def row_group(self, at: int) -> Any:
        part, group = self._groups[at]
        return self._metadata[part].row_group(group)

    @property
    def schema_arrow(self) -> pa.Schema:
        return self._part(0).schema_arrow

    def read(self) -> pa.Table:
        return pa.concat_tables([pq.ParquetFile(here(path)).read() for path in self._parts])

    def read_row_group(self, at: int, columns: Sequence[str] | None = None) -> pa.Table:
        part, group = self._groups[at]
        return self._part(part).read_row_group(group, columns=columns)

    def iter_batches(
        self, batch_size: int, row_groups: Sequence[int] | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        for at in range(len(self._groups)) if row_groups is None else row_groups:
            part, group = self._groups[at]
            yield from self._part(part).iter_batches(batch_size=batch_size, row_groups=[group], columns=columns)

    def _part(self, number: int) -> Any:
        if self._open is None or self._open[0] != number:
            self._close()
            self._open = number, pq.ParquetFile(here(self._parts[number]), pre_buffer=False)
        return self._open[1]

    def _close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None
