"""Makes the values that a row holds for a moment inside a transaction, so that another row can take its value.

NULL is best if the column allows it: it excludes no other row and fits most constraints. Otherwise it is a random value
that no other row has. It is never committed.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Collection, Iterator
from typing import Any

from product_sync.conversion import arrays
from product_sync.schema.row_schema import RowColumn, RowSchema
from product_sync.schema.types import ColumnType, TypeName

#: How many random values are tried.
_TRIES = 3
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_BITS = {TypeName.SMALLINT: 15, TypeName.INTEGER: 31, TypeName.BIGINT: 63, TypeName.REAL: 24, TypeName.DOUBLE: 53}
#: Whole days, in microseconds, of the years 2200 to 9000.
_DAY_US, _FIRST_DAY, _DAYS = 86_400_000_000, 84_006, 2_483_000


def parking_places(row_schema: RowSchema, columns: Collection[str]) -> Iterator[dict[str, Any]]:
    """Values by column, to be tried one after the other. Each makes the row give way in a constraint on ``columns``.
    Only columns that a sync updates can be used."""
    usable = [column for column in row_schema.compared if column.name in columns]
    nullable = {column.name for column in row_schema.table.columns if column.nullable}
    yield from ({column.name: None} for column in usable if column.name in nullable)
    for column in sorted(usable, key=_room):
        if column.type.scalar.name is not TypeName.BOOLEAN:
            yield from ({column.name: _random(column.type)} for _ in range(_TRIES))


def _room(column: RowColumn) -> int:
    """Text comes first: it has most room for random values."""
    kind = column.type
    if kind.name in (TypeName.TEXT, TypeName.VARCHAR, TypeName.CHAR, TypeName.CITEXT):
        return 0 if (kind.length or 1_000) >= 12 else 3
    return 1 if kind.name in (TypeName.UUID, TypeName.BIGINT, TypeName.DOUBLE) else 2


def _random(kind: ColumnType) -> Any:
    value = _random_value(kind.scalar)
    return value if kind.element is None else arrays.literal([value], kind.element)


def _random_value(kind: ColumnType) -> Any:
    """A value in canonical form (`product_sync.schema.types`)."""
    match kind.name:
        case TypeName.ENUM:
            return secrets.choice(kind.labels)
        case TypeName.TEXT | TypeName.VARCHAR | TypeName.CHAR | TypeName.CITEXT:
            length = min(kind.length or 32, 32)
            return "".join(secrets.choice(_LETTERS) for _ in range(length))
        case TypeName.UUID:
            return str(uuid.uuid4())
        case TypeName.NUMERIC:
            whole = (kind.precision - (kind.scale or 0)) if kind.precision is not None else 18
            if whole > 0:
                return str(secrets.randbelow(10 ** min(whole, 18)))
            digits = f"{secrets.randbelow(10 ** (kind.scale or 1)):0{kind.scale or 1}}".rstrip("0")
            return f"0.{digits}" if digits else "0"
        case TypeName.DATE:
            return _FIRST_DAY + secrets.randbelow(_DAYS)
        case TypeName.TIMESTAMPTZ | TypeName.TIMESTAMP:
            return (_FIRST_DAY + secrets.randbelow(_DAYS)) * _DAY_US
        case TypeName.JSON | TypeName.JSONB:
            return str(secrets.randbits(63))
        case TypeName.REAL | TypeName.DOUBLE:
            return float(secrets.randbits(_BITS[kind.name]))
        case _:
            return secrets.randbits(_BITS[kind.name])
