"""Reads the target: the whole table as one consistent stream, or some rows by id.

The checks depend on this read. So it is one snapshot, it fails rather than leave rows out, and its values are
canonical: equal values in the table are equal in the files.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Final

import psycopg
import pyarrow as pa
from psycopg import sql

from product_sync.conversion.ids import can_be_in
from product_sync.schema.addresses import TargetAddress
from product_sync.schema.obstacle import Obstacle
from product_sync.schema.ports import WriteBatch
from product_sync.schema.row_schema import RowSchema
from product_sync.schema.scope import EVERYTHING, Ids, KeyRange, ReadScope
from product_sync.targets.postgres import adbc_stream, binary, catalog_sql, constraints, row_sql, session_sql
from product_sync.targets.postgres.column_types import wire_format
from product_sync.targets.postgres.connection import connect, connected
from product_sync.targets.postgres.errors import changed_meanwhile, waited_too_long
from product_sync.targets.postgres.requirements import table_oid
from product_sync.targets.postgres.waits import PATIENCE, OnWait, Patience, log_wait, watched

#: Rows per Arrow batch. Larger ones are not faster.
BATCH_ROWS: Final = 5_000
#: Ids per statement of a read by id.
_IDS_PER_STATEMENT: Final = 10_000


@dataclass
class PostgresReader:
    """`product_sync.schema.ports.TargetReader` on PostgreSQL. Each read has a connection of its own. `snapshot` reads
    the rows of ``scope``.

    Every method raises what `connect` raises, `AccessDenied` without SELECT or under row-level security, `TableError`
    if the table or a column is gone, `Unreachable` if the connection is lost, and `TargetLocked` if it waits for
    longer than ``patience``. ``on_wait`` is called while it waits.
    """

    address: TargetAddress
    row_schema: RowSchema
    _: KW_ONLY
    batch_rows: int = BATCH_ROWS
    on_wait: OnWait = log_wait
    patience: Patience = PATIENCE
    scope: ReadScope = EVERYTHING

    def snapshot(self) -> Generator[pa.RecordBatch, None, None]:
        if isinstance(self.scope, Ids):
            yield from self._named_rows(self.scope)
        else:
            yield from self._all_rows()

    def _named_rows(self, scope: Ids) -> Iterator[pa.RecordBatch]:
        key_type = self.row_schema.key.type
        ids = [text for text in scope.texts if can_be_in(key_type, text)]
        with self._reading() as connection:
            for start in range(0, len(ids), self.batch_rows):
                yield from fetch(connection, self.row_schema, ids[start : start + self.batch_rows]).to_batches()

    def _all_rows(self) -> Iterator[pa.RecordBatch]:
        # Raises a readable error if no connection can be made.
        connect(self.address).close()
        statement = row_sql.select_all(self.row_schema, self._wanted).as_string()
        for batch in adbc_stream.record_batches(
            self.address, self.row_schema, statement, on_wait=self.on_wait, patience=self.patience
        ):
            for start in range(0, batch.num_rows, self.batch_rows):
                yield batch.slice(start, self.batch_rows)

    @cached_property
    def _wanted(self) -> sql.Composable:
        """Whether a row is in the scope, if that names no ids, and one of this sync."""
        ours, key = row_sql.is_ours(self.row_schema), self.row_schema.key
        if not isinstance(self.scope, KeyRange):
            return ours
        with self._reading() as connection:
            oid = table_oid(connection, self.row_schema.table)
            in_order = connection.execute(catalog_sql.IS_IN_BYTE_ORDER, [oid, key.name]).fetchone() == (True,)
        in_range = row_sql.is_in_range(key, self.scope, in_byte_order=in_order)
        return sql.SQL("{} AND {}").format(ours, in_range)

    def estimated_count(self) -> int:
        wanted = self._wanted
        with self._reading() as connection:
            if self.row_schema.tenant or isinstance(self.scope, KeyRange):
                [([planned],)] = connection.execute(row_sql.estimate(self.row_schema, wanted))
                return int(planned["Plan"]["Plan Rows"])
            oid = table_oid(connection, self.row_schema.table)
            [(rows,)] = connection.execute(catalog_sql.ESTIMATED_COUNT, [oid])
            return int(rows)

    def count(self) -> int:
        """The exact number of rows."""
        with self._reading() as connection:
            [(rows,)] = connection.execute(row_sql.count(self.row_schema))
            return int(rows)

    def fetch(self, ids: Sequence[str]) -> pa.Table:
        with self._reading() as connection:
            return fetch(connection, self.row_schema, ids)

    def obstacles(self, batch: WriteBatch) -> list[Obstacle]:
        with self._reading() as connection:
            return constraints.obstacles(connection, self.row_schema, batch)

    @contextmanager
    def _reading(self) -> Iterator[psycopg.Connection]:
        table = self.row_schema.table.qualified_name
        with (
            connected(self.address, table) as connection,
            watched(connection, self.address, on_wait=self.on_wait, patience=self.patience) as watch,
        ):
            try:
                connection.execute(session_sql.BEGIN_READ)
                yield connection
            except psycopg.Error as error:
                if watch.ended:
                    raise waited_too_long(watch.ended, table=table) from error
                raise


def fetch(connection: psycopg.Connection, row_schema: RowSchema, ids: Sequence[str]) -> pa.Table:
    """The rows of these ids (``RowSchema.target_schema``), read on an open connection. Raises driver errors, and
    `TableError` if a column has another type now."""
    batches: list[pa.RecordBatch] = []
    statement = row_sql.select_by_ids(row_schema)
    for start in range(0, len(ids), _IDS_PER_STATEMENT):
        with connection.cursor(binary=True) as cursor:
            rows = cursor.execute(statement, [binary.ids(ids[start : start + _IDS_PER_STATEMENT])]).fetchall()
            for column, read in zip(row_schema.columns, cursor.description or (), strict=True):
                if read.type_code != wire_format(column.type).read_oid:
                    raise changed_meanwhile(
                        f"{column.name} is not {column.type} any more.", table=row_schema.table.qualified_name
                    )
        if rows:
            columns = zip(row_schema.columns, zip(*rows, strict=True), strict=True)
            arrays = [binary.loaded(values, column.type) for column, values in columns]
            batches.append(pa.record_batch(arrays, schema=row_schema.target_schema))
    return pa.Table.from_batches(batches, schema=row_schema.target_schema)
