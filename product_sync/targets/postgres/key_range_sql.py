"""Builds the condition for the rows of a range of ids.

The range is one of texts in the order of their bytes (`schema.scope.KeyRange`), whatever the collation of the column.
An integer or uuid column is compared by its own values, so that the index of the key serves the condition. A text
column has its own collation as long as that orders texts by their bytes; else the server compares each row.
"""

from __future__ import annotations

from psycopg import sql

from product_sync.conversion import id_bounds
from product_sync.schema.row_schema import RowColumn
from product_sync.schema.scope import KeyRange
from product_sync.schema.types import TypeName

_LEAST, _MOST = -(2**63), 2**63 - 1
_NO_ROW = sql.SQL("false")


def is_in_range(key: RowColumn, scope: KeyRange, *, in_byte_order: bool) -> sql.Composable:
    """Whether the row ``p`` is in ``scope``. ``in_byte_order`` says that the collation of the key orders texts so."""
    column: sql.Composable = sql.Identifier("p", key.name)
    if key.type.as_text:
        return _integer_in(column, scope)
    if key.type.name is TypeName.UUID:
        found = id_bounds.of_form(id_bounds.UUID, scope)
        return _between(column, found.first, found.end, "uuid") if found else _NO_ROW
    if key.type.name is not TypeName.TEXT or not in_byte_order:
        column = sql.SQL("{}::pg_catalog.text").format(column)
    if not in_byte_order:
        column = sql.SQL('{} COLLATE pg_catalog."C"').format(column)
    return _between(column, scope.first, scope.end, "text")


def _integer_in(column: sql.Composable, scope: KeyRange) -> sql.Composable:
    within = sql.SQL("{} BETWEEN {}::pg_catalog.int8 AND {}::pg_catalog.int8")
    intervals = [
        within.format(column, sql.Literal(str(max(first, _LEAST))), sql.Literal(str(min(last, _MOST))))
        for first, last in id_bounds.integers(scope)
        if first <= _MOST and last >= _LEAST
    ]
    return sql.SQL("({})").format(sql.SQL(" OR ").join(intervals)) if intervals else _NO_ROW


def _between(column: sql.Composable, first: str, end: str | None, type_name: str) -> sql.Composable:
    of_type = sql.SQL("{}::pg_catalog.{}")
    bounds = [sql.SQL("{} >= {}").format(column, of_type.format(sql.Literal(first), sql.Identifier(type_name)))]
    if end is not None:
        bounds.append(sql.SQL("{} < {}").format(column, of_type.format(sql.Literal(end), sql.Identifier(type_name))))
    return sql.SQL(" AND ").join(bounds)
