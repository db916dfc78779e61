"""Reads several files as one table: that of a run whose shards have each written a part of it.

The path of the table holds the names of its parts (`files.join`). `files.opened` reads either kind, so whoever reads a
table does not know how many files it has (docs/decisions/0194).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import pyarrow as pa

from product_sync.state.mirror import here, mirror_of
from product_sync.state.storage_errors import opening_table
from product_sync.state.table_file import Footer, Group, TableFile, read_footer


def joined_as_bytes(folder: Path, parts: Iterable[Path], metadata: Mapping[str, str]) -> bytes:
    """The content of the file in ``folder`` that stands for a table of these parts, with this metadata."""
    names = [path.relative_to(folder).as_posix() for path in parts]
    return json.dumps({"parts": names, "metadata": dict(metadata)}).encode()


def joined_at(path: Path) -> JoinedTable | None:
    """The table at ``path``, if it has several files. An Arrow file begins with its own mark."""
    if (mirror := mirror_of(path)) and mirror.is_large(path):
        return None
    with here(path).open("rb") as file:
        if file.read(1) != b"{":
            return None
        content = json.loads(b"{" + file.read())
    return JoinedTable([path.parent / part for part in content["parts"]], content["metadata"])


def footer(path: Path) -> Footer:
    """The footer of a file. A large one in a store is not fetched for it."""
    mirror = mirror_of(path)
    if mirror and mirror.is_large(path) and (entry := mirror.entry(path)):
        with opening_table(path):
            found = mirror.objects.read(entry.name, read_footer)
        if found:
            return found
    with TableFile(here(path)) as file:
        return file.footer


class JoinedTable:
    """As `TableFile`. One part is open at a time. ``own_metadata`` is that of the table."""

    def __init__(self, parts: Sequence[Path], own_metadata: Mapping[str, str]) -> None:
        self._parts = parts
        self.own_metadata = own_metadata
        self._open: tuple[int, TableFile] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @cached_property
    def _footers(self) -> list[Footer]:
        return [footer(path) for path in self._parts]

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """The part of each group, and its place in there."""
        return [(part, at) for part, each in enumerate(self._footers) for at in range(len(each.groups))]

    @property
    def schema(self) -> pa.Schema:
        return self._footers[0].schema

    @property
    def groups(self) -> Sequence[Group]:
        return [group for each in self._footers for group in each.groups]

    def read(self, at: int, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        part, place = self._places[at]
        if self._open is None or self._open[0] != part:
            self._close()
            self._open = part, TableFile(here(self._parts[part]))
        return self._open[1].read(place, columns)

    def _close(self) -> None:
        if self._open is not None:
            self._open[1].__exit__()
            self._open = None
