"""Row schemas and raw documents for the tests of the conversion and the quarantine."""

from __future__ import annotations

import struct
from collections import abc
from typing import Any

from product_sync.schema.definition import SyncDefinition
from product_sync.schema.records import TableColumn, TargetTable
from product_sync.schema.row_schema import RowSchema, resolve_mapping
from product_sync.schema.types import ColumnType, TypeName

TEXT = ColumnType(TypeName.TEXT)
INTEGER = ColumnType(TypeName.INTEGER)


def table_of(columns: abc.Mapping[str, ColumnType | None], *, nullable: bool = True, key: str = "id") -> TargetTable:
    return TargetTable(
        schema="public",
        name="product",
        columns=tuple(
            TableColumn(
                name=name,
                declared=str(column_type or "money"),
                type=column_type,
                nullable=nullable and name != key,
                has_default=False,
            )
            for name, column_type in columns.items()
        ),
        has_primary_key=True,
        keys=((key,),),
    )


def mapping_of(columns: dict[str, dict[str, Any]]) -> SyncDefinition:
    return SyncDefinition.model_validate(
        {
            "source": {"collection": "products"},
            "target": {"table": "product"},
            "columns": {"id": {"source": "_id"}, **columns},
        }
    )


def row_schema_of(
    types: dict[str, ColumnType], specs: dict[str, dict[str, Any]] | None = None, *, key: ColumnType = TEXT
) -> RowSchema:
    """A row schema with the key ``id`` and a nullable column for each of ``types``, filled from the field of its
    name unless ``specs`` says otherwise."""
    columns = dict[str, dict[str, Any]]()
    for name in types:
        spec = {"zone": types[name].scalar.zone} | (specs or {}).get(name, {})
        columns[name] = spec if {"value", "expression", "now"} & spec.keys() else {"source": name} | spec
    return resolve_mapping(mapping_of(columns), table_of({"id": key, **types}))


def element(kind: int, name: bytes, value: bytes) -> bytes:
    """One element of a BSON document, well-formed or not (bsonspec.org)."""
    return bytes([kind]) + name + b"\0" + value


def document(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def string(value: bytes) -> bytes:
    """The value of a BSON string element, UTF-8 or not."""
    return struct.pack("<i", len(value) + 1) + value + b"\0"
