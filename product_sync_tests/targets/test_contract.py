"""The contract of the target, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest
from psycopg import sql

from product_sync.schema.addresses import TargetAddress
from product_sync.schema.row_schema import RowSchema
from product_sync.targets.postgres.reader import PostgresReader
from product_sync.targets.postgres.reflection import reflect
from product_sync.targets.postgres.writer import PostgresWriter
from product_sync_tests.target_contract import (
    Row,
    TargetContract,
    TargetOf,
    every_type_row_schema,
    write_batch,
)
from product_sync_tests.targets.postgres_tables import execute


class _PostgresTarget:
    def __init__(self, url: str, row_schema: RowSchema, writer: PostgresWriter) -> None:
        self._url = url
        self.reader = PostgresReader(TargetAddress(url), row_schema, batch_rows=2)
        self.writer = writer

    def remove(self, key: str) -> None:
        execute(self._url, sql.SQL("DELETE FROM everything WHERE id = {}").format(key))

    def refuse_title(self, title: str) -> None:
        execute(self._url, sql.SQL("ALTER TABLE everything ADD CHECK (title <> {})").format(title))

    def make_unique(self, column: str) -> None:
        execute(
            self._url,
            sql.SQL("CREATE UNIQUE INDEX {} ON everything ({})").format(
                sql.Identifier(f"unique_{column}"), sql.Identifier(column)
            ),
        )

    def refer_to_id(self, column: str) -> None:
        execute(
            self._url,
            sql.SQL("ALTER TABLE everything ADD CONSTRAINT parent FOREIGN KEY ({}) REFERENCES everything").format(
                sql.Identifier(column)
            ),
        )

    def swallow(self, key: str) -> None:
        execute(
            self._url,
            "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            sql.SQL(
                "CREATE TRIGGER swallow BEFORE INSERT ON everything "
                "FOR EACH ROW WHEN (NEW.id = {}) EXECUTE FUNCTION swallow()"
            ).format(key),
        )


class TestPostgresTarget(TargetContract):
    @pytest.fixture
    def target_of(self, cart_url: str) -> Iterator[TargetOf]:
        with ExitStack() as stack:

            def make(row_schema: RowSchema, rows: Sequence[Row]) -> _PostgresTarget:
                columns = sql.SQL(", ").join(
                    sql.SQL("{} {}").format(sql.Identifier(column.name), sql.SQL(str(column.type)))
                    for column in row_schema.table.columns
                )
                execute(cart_url, sql.SQL("CREATE TABLE everything ({}, PRIMARY KEY (id))").format(columns))
                writer = stack.enter_context(PostgresWriter(TargetAddress(cart_url), row_schema, run_id="contract"))
                writer.write(write_batch(row_schema, inserts=rows))
                return _PostgresTarget(cart_url, row_schema, writer)

            yield make

    def test_the_table_is_reflected_as_it_was_made(self, target_of: TargetOf, cart_url: str) -> None:
        row_schema = every_type_row_schema()
        target_of(row_schema, [])
        reflected = reflect(TargetAddress(cart_url), "public", "everything")
        assert reflected.columns == row_schema.table.columns
