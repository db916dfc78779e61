"""What a table must have for a mapping: its columns, in supported types, a time zone for each timestamp, and a key.

The key is the id alone, or the id with columns that have one value in the mapping. With a key such as
``(tenant_id, id)`` a sync reads and writes the rows of its tenant only. Without this, it would take the rows of the
other tenants for extra rows (docs/decisions/0155).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from product_sync.errors import MappingError, TableError
from product_sync.runtime import hints
from product_sync.schema.definition import SyncDefinition
from product_sync.schema.records import TargetTable
from product_sync.schema.types import TypeName

_ZONED: Final = frozenset({TypeName.TIMESTAMP, TypeName.DATE})
#: Types in which one value of the mapping is one value of the table.
_TENANT_TYPES: Final = frozenset(map(TypeName, ["text", "varchar", "char", "uuid", "smallint", "integer", "bigint"]))


def require_columns(mapping: SyncDefinition, table: TargetTable) -> None:
    """Raises one `TableError` that names all missing columns and all columns of an unsupported type."""
    where, found = table.qualified_name, {column.name: column for column in table.columns}
    missing = [name for name in mapping.columns if name not in found]
    unsupported = [found[name] for name in mapping.columns if name in found and found[name].type is None]
    faults, ways_out = list[str](), list[str]()
    if missing:
        names = f"column {missing[0]!r}" if len(missing) == 1 else f"columns {_names(map(repr, missing))}"
        faults.append(f"Table {where} has no {names}, which the mapping names (it has: {_names(found)}).")
        ways_out.append("Add what is missing to the table or take it out of the mapping file.")
    if unsupported:
        faults += [f"Column {where}.{column.name} has the type {column.declared}, which is not supported."
                   for column in unsupported]  # fmt: skip
        ways_out.append(
            f"Supported are: {_names(TypeName)} of these, and domains over these. Take the column out of the mapping or"
            " change its type."
        )
    if faults:
        raise TableError(" ".join(faults), hint=" ".join(ways_out))


def require_zones(mapping: SyncDefinition, table: TargetTable) -> None:
    """Raises `MappingError` if a timestamp has no ``zone``, or another type than timestamp and date has one."""
    where = table.qualified_name
    types = {column.name: column.type.scalar.name for column in table.columns if column.type is not None}
    without = [name for name, spec in mapping.columns.items() if types[name] is TypeName.TIMESTAMP and not spec.zone]
    if without:
        raise MappingError(
            f"The type timestamp of {where} ({_names(without)}) has no time zone, and the mapping gives none: which"
            " instant would a row mean?",
            hint="Add the time zone whose local time the rows hold to these columns of the mapping, such as `zone: UTC`"
            " or `zone: Europe/Berlin`. A column of type timestamptz needs none.",
        )
    for name, spec in mapping.columns.items():
        if spec.zone and types[name] not in _ZONED:
            raise MappingError(
                f"The mapping gives `zone` for {name!r}, but column {where}.{name} has the type {types[name]}.",
                hint="Only columns of type timestamp and date take a `zone`. Take it out of the mapping.",
            )


def tenant_columns(mapping: SyncDefinition, table: TargetTable, key: str) -> tuple[str, ...]:
    """The columns of the key beside ``key``, the column of the id. If several keys can be used, the one with the most
    columns is: it reaches the fewest rows. Raises `TableError` if no key can be used, and `MappingError` if another
    sync of the project has the same table and its rows are not told apart by the key."""
    types = {column.name: column.type.name for column in table.columns if column.type is not None}
    constants = [
        name for name, spec in mapping.columns.items() if spec.value is not None and types.get(name) in _TENANT_TYPES
    ]
    usable = [columns for columns in table.keys if key in columns and {*columns} <= {key, *constants}]
    if not usable:
        raise _no_key(table, key, constants)
    tenant = tuple(name for name in max(usable, key=len) if name != key)
    for distinct in mapping.distinct_from_others:
        if distinct.isdisjoint(tenant):
            raise MappingError(
                f"Another sync of this project has the table {table.qualified_name} too, with another value of"
                f" {_names(sorted(distinct))}, but the key ({_names((*tenant, key))}) does not contain that column.",
                hint=f"Give the table a unique key of {_names((*sorted(distinct), key))}, or each sync its own table.",
            )
    return tenant


def _no_key(table: TargetTable, key: str, constants: Sequence[str]) -> TableError:
    error = (
        f"Column {table.qualified_name}.{key} holds the id, but does not identify a row: it must be NOT NULL, with a"
        " primary key or a unique index on it alone, or on it and columns with a constant `value` in the mapping. The"
        " index must not be partial, on an expression or deferrable. Keys of the table:"
        f" {'; '.join(map(_names, table.keys)) or 'none'}."
    )
    for columns in table.keys:
        if key in columns:
            others = _names(name for name in columns if name not in (key, *constants))
            return TableError(
                error,
                hint=f"Give {others} a constant `value` in the mapping, of type {_names(sorted(_TENANT_TYPES))}: then"
                " only the rows with this value are read and written. Or make the id unique by itself.",
            )
    names, target = (*constants, key), (table.schema, table.name)
    listed = ", ".join(["{}"] * len(names))
    if not table.has_primary_key:
        return TableError(error, hint=hints.sql(f"ALTER TABLE {{}} ADD PRIMARY KEY ({listed})", target, *names))
    nullable = [column.name for column in table.columns if column.name in names and column.nullable]
    changes = "".join("ALTER {} SET NOT NULL, " for _ in nullable)
    return TableError(
        error, hint=hints.sql(f"ALTER TABLE {{}} {changes}ADD UNIQUE ({listed})", target, *nullable, *names)
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)
