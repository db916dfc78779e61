"""Reads one file of a table: an Arrow IPC file of row groups, which can be read alone and column by column.

Arrow's format does not say how many rows a group has, or which values. So the file ends with a batch without rows whose
metadata is the index of all groups (docs/decisions/0265). Every group is validated when it is read: a damaged one would
otherwise end the process, not raise an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.compute as pc

from product_sync.state.storage_errors import opening_table

_INDEX: Final = b"groups"
#: Longer values are no bounds: the index is read before any row.
_BOUND_CHARACTERS: Final = 200


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that lie together in a file. ``nbytes`` of each column are those in memory. ``bounds`` are the least and the
    greatest value of the columns that the table is sought by."""

    num_rows: int
    nbytes: Mapping[str, int]
    bounds: Mapping[str, tuple[str, str]]

    @classmethod
    def of(cls, batch: pa.RecordBatch, sought_by: str | None) -> Group:
        nbytes = {name: int(column.nbytes) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
        return cls(batch.num_rows, nbytes, dict(_bounds(batch, sought_by)) if sought_by else {})

    def bytes_of(self, columns: Sequence[str] | None = None) -> int:
        """The bytes in memory of all columns, or of the named ones."""
        return sum(size for name, size in self.nbytes.items() if columns is None or name in columns)

    def may_hold(self, column: str, first: str, last: str) -> bool:
        """Whether the group may hold a value from ``first`` to ``last``. ``column`` is one of text."""
        low, high = self.bounds.get(column, (first, last))
        return low <= last and first <= high


def _bounds(batch: pa.RecordBatch, sought_by: str) -> Iterator[tuple[str, tuple[str, str]]]:
    low, high = (value.as_py() for value in pc.min_max(batch.column(sought_by)).values())
    if low is not None and max(len(low), len(high)) <= _BOUND_CHARACTERS:
        yield sought_by, (low, high)


@dataclass(frozen=True, slots=True)
class Footer:
    """What a file says of its rows."""

    schema: pa.Schema
    metadata: Mapping[str, str]
    groups: tuple[Group, ...]


def index_of(groups: Sequence[Group]) -> dict[bytes, bytes]:
    """The metadata of the last batch of a file."""
    entries = [
        [group.num_rows, [*group.nbytes.values()], [[name, *ends] for name, ends in group.bounds.items()]]
        for group in groups
    ]
    return {_INDEX: json.dumps(entries).encode()}


def read_footer(file: Any) -> Footer:
    """The footer of an open file or object. Raises Arrow's errors."""
    reader = pa.ipc.open_file(file)
    schema = reader.schema
    try:
        last = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
        entries = json.loads(last.custom_metadata[_INDEX])
        groups = tuple(
            Group(
                int(rows),
                dict(zip(schema.names, sizes, strict=True)),
                {name: (low, high) for name, low, high in bounds},
            )
            for rows, sizes, bounds in entries
        )
        metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    except (LookupError, TypeError, ValueError) as error:
        raise pa.ArrowInvalid("The file does not end with the index of a table.") from error
    return Footer(schema, metadata, groups)


class TableFile:
    """A file that `files.table_writer` has written. A context manager. Raises `LocalStorageError` for a damaged one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._readers: dict[tuple[str, ...] | None, Any] = {}
        self._file = pa.OSFile(str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @cached_property
    def footer(self) -> Footer:
        with opening_table(self._path):
            return read_footer(self._file)

    @property
    def schema(self) -> pa.Schema:
        return self.footer.schema

    @property
    def groups(self) -> Sequence[Group]:
        return self.footer.groups

    def read(self, at: int, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """The rows of one group: all columns, or the named ones."""
        named = None if columns is None else tuple(columns)
        with opening_table(self._path):
            if named not in self._readers:
                places = None if named is None else [self.schema.get_field_index(name) for name in named]
                options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=places)
                self._readers[named] = pa.ipc.open_file(self._file, options=options)
            batch = self._readers[named].get_batch(at)
            batch.validate(full=True)
        return batch if named is None else batch.select(named)
