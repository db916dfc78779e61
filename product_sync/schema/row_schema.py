"""A sync's columns with the types of the real table.

Everything that depends on the shape of a row is derived here, once, so that no two places can disagree: the Arrow
schemas of the snapshot and the diff, the compared columns, the key of the state folder.
"""

import hashlib
import itertools
import json
from collections import abc
from dataclasses import dataclass, field, replace
from functools import cached_property

import pyarrow as pa

from product_sync.errors import MappingError, TableError
from product_sync.schema.column_spec import Kind
from product_sync.schema.definition import SyncDefinition
from product_sync.schema.records import TargetTable
from product_sync.schema.table_requirements import require_columns, require_zones, tenant_columns
from product_sync.schema.types import ColumnType, TypeName

#: Column of the source snapshot and the diff that holds the BSON type of the ``_id`` (`IdType`).
ID_TYPE = "source_id_type"
#: Prefixes of the value columns in the diff: the value of the source, and the one that was read from the target.
NEW, OLD = "new_", "old_"

_TEXT_KEYS = frozenset({TypeName.TEXT, TypeName.VARCHAR, TypeName.CHAR, TypeName.UUID})
_REFERENCES = _TEXT_KEYS | {TypeName.CITEXT}
_TIMES = frozenset({TypeName.TIMESTAMPTZ, TypeName.TIMESTAMP, TypeName.DATE})
_INTEGER_KEYS = frozenset({TypeName.INTEGER, TypeName.BIGINT})


@dataclass(frozen=True, slots=True)
class RowColumn:
    """A mapped column: its path in the document, its type in the target, and the options of the mapping. A column with
    the same value in every row has no path; the value is its default. The value of an ``expression`` arrives in a field
    of its own, which the path names."""

    name: str
    path: tuple[str, ...]
    kind: Kind
    type: ColumnType
    required: bool
    default: object
    has_default: bool
    update: bool
    expression: object = field(default=None, hash=False)

    @property
    def origin(self) -> str:
        """Where the value comes from, for people: the dotted path or the expression. Empty for a fixed value."""
        return ".".join(self.path) if self.expression is None else json.dumps(self.expression, default=str)

    @property
    def default_text(self) -> str:
        """The default or the fixed value, as people write it in the mapping: a text in quotes, ``true``, a number."""
        return json.dumps(self.default, default=str, ensure_ascii=False)


@dataclass(frozen=True)
class RowSchema:
    """All mapped columns, the key first. `resolve_mapping` makes it."""

    collection: str
    table: TargetTable
    key: RowColumn
    values: tuple[RowColumn, ...]
    #: A query as the mapping gives it (`source_filter.query_of`); empty for the whole collection.
    filter: abc.Mapping[str, object] = field(default_factory=dict, hash=False)
    #: Those of ``values`` that are part of the target's key. Each has a constant value, and only the rows with these
    #: values are read and written.
    tenant: tuple[RowColumn, ...] = ()
    #: Columns that get the time of each write. They are not read and not compared, so they are not among ``values``.
    written_at: tuple[RowColumn, ...] = ()

    @property
    def key_names(self) -> tuple[str, ...]:
        """All columns of the target's key."""
        return (*(column.name for column in self.tenant), self.key.name)

    @property
    def columns(self) -> tuple[RowColumn, ...]:
        return (self.key, *self.values)

    @property
    def expressions(self) -> dict[str, object]:
        return {column.name: column.expression for column in self.columns if column.expression is not None}

    @cached_property
    def compared(self) -> tuple[RowColumn, ...]:
        """The columns that are compared and updated. The others are written on insert only."""
        return tuple(column for column in self.values if column.update)

    @cached_property
    def target_schema(self) -> pa.Schema:
        """Rows of the target: the key and the values, with the names of the table."""
        return pa.schema([(column.name, column.type.arrow) for column in self.columns])

    @cached_property
    def source_schema(self) -> pa.Schema:
        """Rows of the source: `ID_TYPE`, then as in the target."""
        return pa.schema([(ID_TYPE, pa.string()), *self.target_schema])

    @cached_property
    def diff_schema(self) -> pa.Schema:
        """Rows of the diff: ``op``, ``id``, `ID_TYPE`, ``refused_before``, then ``new_*`` and ``old_*``.
        ``refused_before`` marks a row that the database has refused with the same values. ``new_*`` is null for an
        extra row, ``old_*`` for an insert."""
        return pa.schema(
            [
                *((name, pa.string()) for name in ("op", "id", ID_TYPE)),
                ("refused_before", pa.bool_()),
                *((side + column.name, column.type.arrow) for side in (NEW, OLD) for column in self.values),
            ]
        )

    def state_key(self, source: str, target: str) -> str:
        """The name of the state folder. Another mapping or another address has another key, and starts without state.
        ``source`` and ``target`` are the addresses without credentials."""
        identity: list[object] = [
            source,
            self.collection,
            target,
            self.table.qualified_name,
            [
                [column.name, ".".join(column.path), column.kind, str(column.type), column.required,
                 repr(column.default) if column.has_default else None, column.update,
                 *([] if column.expression is None else [column.expression])]
                for column in self.columns
            ],
        ]  # fmt: skip
        if self.filter:
            identity.append(self.filter)
        if self.tenant:
            identity.append(self.key_names)
        return hashlib.sha256(json.dumps(identity, default=str).encode()).hexdigest()[:16]


def resolve_mapping(mapping: SyncDefinition, table: TargetTable) -> RowSchema:
    """Join the mapping with the reflected table. Raises `TableError` for a missing column, an unsupported type, an
    unmapped NOT NULL column without a default, and an id column that is in no key (`tenant_columns`). Raises
    `MappingError` if the mapping allows NULL in a NOT NULL column."""
    found = {column.name: column for column in table.columns}
    where = table.qualified_name
    require_columns(mapping, table)
    require_zones(mapping, table)
    resolved, written_at = list[RowColumn](), list[RowColumn]()
    paths = _paths(mapping)
    for name, spec in mapping.columns.items():
        column = found[name]
        if column.type is None:
            continue  # refused above
        is_integer = column.type.name in _INTEGER_KEYS
        if spec.is_id and not is_integer and column.type.name not in _TEXT_KEYS:
            raise TableError(
                f"Column {where}.{name} has the type {column.declared}, which cannot hold an id.",
                hint="An id needs a column of type text, varchar, char, uuid, or integer or bigint for whole numbers.",
            )
        if spec.kind is Kind.REFERENCE and column.type.scalar.name not in _REFERENCES:
            raise TableError(
                f"Column {where}.{name} has the type {column.declared}, but a reference is copied as text.",
                hint="References need a column of type text, varchar, char, citext or uuid, or an array of these.",
            )
        if not spec.required and not spec.has_default and not column.nullable:
            raise MappingError(
                f"The mapping says `required: false` for {name!r}, but column {where}.{name} is NOT NULL.",
                hint="Set a default, or `required: true`.",
            )
        if spec.now and column.type.name not in _TIMES:
            raise TableError(
                f"Column {where}.{name} has the type {column.declared}, which cannot hold the time of the write.",
                hint="`now: true` needs a column of type timestamptz, timestamp or date.",
            )
        (written_at if spec.now else resolved).append(
            RowColumn(
                name=name, path=paths[name], kind=spec.kind,
                type=column.type.detailed(as_text=spec.is_id and is_integer, zone=spec.zone), required=spec.required,
                default=spec.default if spec.value is None else spec.value,
                has_default=spec.has_default or spec.value is not None,
                update=spec.update, expression=spec.expression,
            )
        )  # fmt: skip
    key = next(column for column in resolved if column.path == ("_id",))
    tenant_names = tenant_columns(mapping, table, key.name)
    unfilled = [
        column.name
        for column in table.columns
        if column.name not in mapping.columns and not column.nullable and not column.has_default
    ]
    if unfilled:
        raise TableError(
            f"Table {where} has NOT NULL columns without a default that are not mapped: {', '.join(unfilled)}.",
            hint="Map them, or set a default in the table.",
        )
    values = [
        replace(column, update=column.update and column.name not in tenant_names)
        for column in resolved
        if column is not key
    ]
    tenant = tuple(column for column in values if column.name in tenant_names)
    return RowSchema(
        mapping.source.collection, table, key, tuple(values), mapping.source.filter, tenant, tuple(written_at)
    )


def _paths(mapping: SyncDefinition) -> dict[str, tuple[str, ...]]:
    """The path of each column. The field of an expression has a name that no mapped field has."""
    mapped = {spec.path[0] for spec in mapping.columns.values() if spec.path}
    free = (name for number in itertools.count() if (name := f"product_sync {number}") not in mapped)
    return {name: spec.path if spec.expression is None else (next(free),) for name, spec in mapping.columns.items()}
