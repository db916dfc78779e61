"""Reading the cart's table: as one consistent stream, or some rows by id.

The verdict rests on this reading, so it is one snapshot, it fails rather than leave rows out, and its values are
canonical: what is equal in the table is equal in the files.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from typing import Final

import psycopg
import pyarrow as pa

from product_sync.errors import TableError
from product_sync.schema.obstacle import Obstacle
from product_sync.schema.ports import WriteBatch
from product_sync.schema.row_schema import RowSchema
from product_sync.targets.postgres import adbc_stream, binary_arrays, constraints, statements
from product_sync.targets.postgres.connection import connect
from product_sync.targets.postgres.errors import changed_meanwhile, read_error, waited_too_long
from product_sync.targets.postgres.requirements import table_oid
from product_sync.targets.postgres.waits import PATIENCE, OnWait, Patience, log_wait, watched

#: Rows per Arrow batch and per round trip of the server-side cursor. Larger ones are not faster.
BATCH_ROWS: Final = 5_000
#: Rows of the cursor's first page.
_FIRST_ROWS: Final = 64
#: Ids per statement of a reading by id.
_IDS_PER_STATEMENT: Final = 10_000


class PostgresReader:
    """`product_sync.schema.ports.TargetReader` on PostgreSQL. Each reading has a connection of its own.

    Every method raises what `connect` raises, `AccessDenied` without SELECT or under row-level security,
    `TableError` if the table or a column is gone, `Unreachable` if the connection is lost half-way, and `TargetLocked`
    if it waits for longer than ``patience`` lasts; ``on_wait`` hears of that meanwhile.
    """

    def __init__(
        self,
        url: str,
        row_schema: RowSchema,
        *,
        batch_rows: int = BATCH_ROWS,
        on_wait: OnWait = log_wait,
        patience: Patience = PATIENCE,
    ) -> None:
        self._url = url
        self._on_wait = on_wait
        self._patience = patience
        self._layout = row_schema
        self._batch_rows = batch_rows

    def snapshot(self) -> Generator[pa.RecordBatch, None, None]:
        if not adbc_stream.is_possible(self._layout):
            yield from self._by_cursor()
            return
        # Says why, in words for people, if no connection can be made.
        connect(self._url).close()
        statement = statements.select_all(self._layout).as_string()
        batches = adbc_stream.record_batches(
            self._url, self._layout, statement, on_wait=self._on_wait, patience=self._patience
        )
        try:
            first = next(batches, None)
        except TableError:
            # ADBC looks types up by the text of their functions, and does not find them where the server quotes all
            # names or something else shadows them. The cursor compares the types' OIDs.
            yield from self._by_cursor()
            return
        for batch in chain(() if first is None else (first,), batches):
            for start in range(0, batch.num_rows, self._batch_rows):
                yield batch.slice(start, self._batch_rows)

    def _by_cursor(self) -> Iterator[pa.RecordBatch]:
        with (
            self._reading() as connection,
            connection.cursor(name="product_sync_snapshot", binary=True) as cursor,
        ):
            cursor.execute(statements.select_all(self._layout))
            _require_types(cursor, self._layout)
            size = _FIRST_ROWS
            while rows := cursor.fetchmany(min(size, self._batch_rows)):
                batch = _record_batch(rows, self._layout)
                yield batch
                # The cursor knows rows and no bytes: as many as fit by what the last ones had, growing slowly.
                fitting = adbc_stream.BATCH_BYTES * batch.num_rows // max(int(batch.nbytes), 1)
                size = max(1, min(fitting, 4 * size))

    def estimated_count(self) -> int:
        with self._reading() as connection:
            row = connection.execute(statements.ESTIMATED_COUNT, [table_oid(connection, self._layout.table)]).fetchone()
            return 0 if row is None else int(row[0])

    def count(self) -> int:
        """How many rows there are now, counted."""
        with self._reading() as connection:
            row = connection.execute(statements.count(self._layout)).fetchone()
            return 0 if row is None else int(row[0])

    def fetch(self, ids: Sequence[str]) -> pa.Table:
        with self._reading() as connection:
            return fetch(connection, self._layout, ids)

    def obstacles(self, batch: WriteBatch) -> list[Obstacle]:
        """As `TargetWriter.obstacles`."""
        with self._reading() as connection:
            return constraints.obstacles(connection, self._layout, batch)

    @contextmanager
    def _reading(self) -> Iterator[psycopg.Connection]:
        with (
            closing(connect(self._url)) as connection,
            watched(connection, self._url, on_wait=self._on_wait, patience=self._patience) as watch,
        ):
            try:
                connection.execute(statements.BEGIN_READ)
                yield connection
            except psycopg.Error as error:
                table = self._layout.table.qualified_name
                if watch.ended:
                    raise waited_too_long(watch.ended, table=table) from error
                raise read_error(error, table=table, broken=connection.closed) from error


def fetch(connection: psycopg.Connection, row_schema: RowSchema, ids: Sequence[str]) -> pa.Table:
    """The rows of these ids on an open connection, with ``RowSchema.target_schema``. Raises driver errors, and
    `TableError` if a column has another type by now."""
    batches: list[pa.RecordBatch] = []
    statement = statements.select_by_ids(row_schema)
    for start in range(0, len(ids), _IDS_PER_STATEMENT):
        chunk = binary_arrays.ids(ids[start : start + _IDS_PER_STATEMENT])
        with connection.cursor(binary=True) as cursor:
            rows = cursor.execute(statement, [chunk]).fetchall()
            _require_types(cursor, row_schema)
            if rows:
                batches.append(_record_batch(rows, row_schema))
    return pa.Table.from_batches(batches, schema=row_schema.target_schema)


def _require_types(cursor: psycopg.Cursor[tuple[object, ...]], row_schema: RowSchema) -> None:
    """Arrow would make an integer of what is a fraction by now, without a word."""
    for column, read in zip(row_schema.columns, cursor.description or (), strict=True):
        if read.type_code != binary_arrays.wire(column.type).oid:
            raise changed_meanwhile(
                f"{column.name} is not {column.type} any more.", table=row_schema.table.qualified_name
            )


def _record_batch(rows: Sequence[tuple[object, ...]], row_schema: RowSchema) -> pa.RecordBatch:
    columns = zip(row_schema.columns, zip(*rows, strict=True), strict=True)
    return pa.record_batch(
        [binary_arrays.canonical(values, column.type) for column, values in columns], schema=row_schema.target_schema
    )
