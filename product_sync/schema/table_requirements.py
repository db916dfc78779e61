"""What a table must have for a mapping: its columns, in supported types, and a time zone for each timestamp."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from product_sync.errors import MappingError, TableError
from product_sync.schema.definition import SyncDefinition
from product_sync.schema.records import TargetTable
from product_sync.schema.types import TypeName

_ZONED: Final = frozenset({TypeName.TIMESTAMP, TypeName.DATE})


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


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)
