"""Which key of the target table a sync uses: the id alone, or the id with columns that have one value in the mapping.

With a key such as ``(tenant_id, id)`` a sync reads and writes the rows of its tenant only. Without this, it would take
the rows of the other tenants for extra rows (docs/decisions/0155).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from product_sync.errors import MappingError, TableError
from product_sync.runtime import hints
from product_sync.schema.definition import SyncDefinition
from product_sync.schema.records import TargetTable
from product_sync.schema.types import TypeName

#: Types in which one value of the mapping is one value of the table.
_TENANT_TYPES: Final = frozenset(
    {
        TypeName.TEXT,
        TypeName.VARCHAR,
        TypeName.CHAR,
        TypeName.UUID,
        TypeName.SMALLINT,
        TypeName.INTEGER,
        TypeName.BIGINT,
    }
)


def tenant_columns(mapping: SyncDefinition, table: TargetTable, key: str) -> tuple[str, ...]:
    """The columns of the key beside ``key``, the column of the id. If several keys can be used, the one with the most
    columns is: it reaches the fewest rows.

    Raises `TableError` if no key can be used, and `MappingError` if another sync of the project has the same table and
    its rows are not told apart by the key.
    """
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
