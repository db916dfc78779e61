"""Every supported column type in one table: how reflection finds it, how its values travel, how they are compared.

To support another PostgreSQL type, add it to `product_sync.schema.types.TypeName` with its Arrow type, and one entry
to `_TYPES` here. A type that is not known to be exact has no entry: the mapping refuses it by name. A type that is read
wrongly here would let values through that the server rounds or pads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Final, LiteralString

from psycopg import sql
from psycopg.postgres import types

from product_sync.conversion import arrays
from product_sync.conversion.json_values import NOT_JSONB, PERHAPS_NOT_JSONB
from product_sync.schema.types import ColumnType, TypeName

#: BSON dates have milliseconds; a column with fewer digits would round them.
_MILLISECONDS: Final = 3
_AS_TEXT: Final = "{}::pg_catalog.text"


@dataclass(frozen=True, slots=True)
class WireFormat:
    """How the values of a column type travel to the server and back, in binary.

    ``sent_as`` is the built-in type that is sent, ``dtype`` its fixed-size binary form or ``None`` for text, ``parse``
    the SQL that prepares it for a cast, and ``cast`` the column's own type where that is another one, with its schema.
    ``is_array`` makes it a cast to an array of that type. COPY takes what is sent if ``copies``. ``read`` is the SQL
    that reads a column, ``read_as`` the type of its result. ``compare`` is the SQL that compare-and-swap compares with
    the value that was read: where reading loses something, it must lose the same, or such a row could never be written
    again. ``{1}`` in it is the value that was read, as it is sent; ``compare_with`` is the SQL that makes of it what
    ``compare`` is compared with.
    """

    sent_as: str
    dtype: str | None = None
    parse: LiteralString = "{}"
    cast: tuple[str, str] | None = None
    is_array: bool = False
    copies: bool = True
    read: LiteralString = "{}"
    read_as: str = ""
    compare: LiteralString = "{}"
    compare_with: LiteralString | None = None

    @property
    def read_dtype(self) -> str | None:
        """The fixed-size binary form of what is read, or ``None`` for text."""
        return None if self.read_type == "text" else self.dtype

    @property
    def sent_oid(self) -> int:
        return types[self.sent_as].oid

    @property
    def read_type(self) -> str:
        return self.read_as or self.sent_as

    @property
    def read_oid(self) -> int:
        return types[self.read_type].oid

    def parsed(self, element: sql.Composable) -> sql.Composed:
        """The SQL that makes the column's type of a value that was sent."""
        return _cast(sql.SQL(self.parse).format(element), self.cast, "[]" if self.is_array else "")

    def parsed_ids(self, parameter: LiteralString) -> sql.Composed:
        """The SQL that makes an array of the column's type of ids that were sent as text."""
        return _cast(sql.SQL(parameter + "::pg_catalog.text[]"), self.cast or ("pg_catalog", self.sent_as), "[]")

    def shown(self, column: sql.Composable) -> sql.Composed:
        return sql.SQL(self.read).format(column)

    def compared(self, column: sql.Composable, element: sql.Composable) -> tuple[sql.Composed, sql.Composed]:
        """What a column holds and the value that was read from it, as two expressions to be compared."""
        before = self.parsed(element) if self.compare_with is None else sql.SQL(self.compare_with).format(element)
        return sql.SQL(self.compare).format(column, element), before


def _cast(value: sql.Composable, to: tuple[str, str] | None, suffix: LiteralString) -> sql.Composed:
    return sql.Composed([value]) if to is None else sql.SQL("{}::{}" + suffix).format(value, sql.Identifier(*to))


#: What `binary.canonical` makes of a moment that microseconds since 1970 do not reach.
_AS_READ: Final = "CASE WHEN pg_catalog.isfinite({0}) THEN LEAST({0}, '294247-01-10 04:00:54.775806+00') ELSE {0} END"
#: The server reads a json as a jsonb, unless that may fail: then it gives the text, and `json_values` decides. A text
#: that is no jsonb gets a mark there, and is compared as text. An E'' string has one meaning under every setting.
_PATTERN: Final = PERHAPS_NOT_JSONB.replace("\\", r"\\").replace("{", "{{").replace("}", "}}")
_HAS_MARK: Final = f"pg_catalog.starts_with({{}}, '{NOT_JSONB}')"
_UNMARKED: Final = f"pg_catalog.substr({{0}}, {len(NOT_JSONB) + 1})"
_JSON: Final = WireFormat(
    "text",
    parse=f"CASE WHEN {_HAS_MARK.format('{0}')} THEN {_UNMARKED} ELSE {{0}} END",
    cast=("pg_catalog", "json"),
    copies=False,
    read=f"CASE WHEN {{0}}::pg_catalog.text ~ E'{_PATTERN}' THEN {{0}}::pg_catalog.text"
    " ELSE {0}::pg_catalog.jsonb::pg_catalog.text END",
    compare=f"CASE WHEN {_HAS_MARK.format('{1}')} THEN pg_catalog.to_jsonb({{0}}::pg_catalog.text)"
    " ELSE {0}::pg_catalog.jsonb END",
    compare_with=f"CASE WHEN {_HAS_MARK.format('{0}')}"
    f" THEN pg_catalog.to_jsonb({_UNMARKED}) ELSE {{0}}::pg_catalog.jsonb END",
)
#: By the server's own name of the type (pg_type.typname), `enum`, and `citext` for that of the extension.
_TYPES: Final[dict[str, tuple[TypeName, WireFormat]]] = {
    "int2": (TypeName.SMALLINT, WireFormat("int2", ">i2")),
    "int4": (TypeName.INTEGER, WireFormat("int4", ">i4")),
    "int8": (TypeName.BIGINT, WireFormat("int8", ">i8")),
    "float4": (TypeName.REAL, WireFormat("float4", ">f4")),
    "float8": (TypeName.DOUBLE, WireFormat("float8", ">f8")),
    "bool": (TypeName.BOOLEAN, WireFormat("bool", ">i1")),
    "date": (TypeName.DATE, WireFormat("date", ">i4", read="pg_catalog.date_send({})", read_as="bytea")),
    "timestamp": (
        TypeName.TIMESTAMP,
        WireFormat("timestamp", ">i8", read="pg_catalog.timestamp_send({})", read_as="bytea", compare=_AS_READ),
    ),
    # Read as bytes: neither ADBC nor psycopg can hold the infinite ones.
    "timestamptz": (
        TypeName.TIMESTAMPTZ,
        WireFormat("timestamptz", ">i8", read="pg_catalog.timestamptz_send({})", read_as="bytea", compare=_AS_READ),
    ),
    "text": (TypeName.TEXT, WireFormat("text")),
    "varchar": (TypeName.VARCHAR, WireFormat("text", read=_AS_TEXT)),
    # These compare some texts that differ as equal: trailing blanks, letter case.
    "bpchar": (
        TypeName.CHAR,
        WireFormat("text", cast=("pg_catalog", "bpchar"), read=_AS_TEXT, compare=_AS_TEXT, compare_with="{}"),
    ),
    "citext": (TypeName.CITEXT, WireFormat("text", read=_AS_TEXT, compare=_AS_TEXT, compare_with="{}")),
    "enum": (TypeName.ENUM, WireFormat("text", read=_AS_TEXT, compare=_AS_TEXT, compare_with="{}")),
    "uuid": (TypeName.UUID, WireFormat("text", cast=("pg_catalog", "uuid"), copies=False, read=_AS_TEXT)),
    # 99.90 and 99.9 are one value, so they must be read as one text.
    "numeric": (
        TypeName.NUMERIC,
        WireFormat(
            "text", cast=("pg_catalog", "numeric"), copies=False, read="pg_catalog.trim_scale({})::pg_catalog.text"
        ),
    ),
    "json": (TypeName.JSON, _JSON),
    "jsonb": (TypeName.JSONB, replace(_JSON, cast=("pg_catalog", "jsonb"), read=_AS_TEXT)),
}
_FORMATS: Final = dict(_TYPES.values())


@cache
def wire_format(column_type: ColumnType) -> WireFormat:
    if column_type.element is not None:
        return _array_format(column_type.element)
    form = _FORMATS[column_type.name]
    if column_type.own_name is not None:
        return replace(form, cast=column_type.own_name)
    return replace(form, read=_AS_TEXT, read_as="text") if column_type.as_text else form


def _array_format(element: ColumnType) -> WireFormat:
    """An array is sent as the text of its literal."""
    built_in = next(name for name, (known, _) in _TYPES.items() if known is element.name)
    form = WireFormat(
        "text", cast=element.own_name or ("pg_catalog", built_in), is_array=True, copies=False, read=_AS_TEXT
    )
    if arrays.is_sent_as_bytes(element):
        return replace(form, read="pg_catalog.array_send({})", read_as="bytea")
    if _FORMATS[element.name].compare == _AS_TEXT:
        texts = "{}::pg_catalog.text[]::pg_catalog.text"
        return replace(form, read=texts, compare=texts, compare_with="{}")
    return form


def column_type(name: str | None, modifier: int) -> ColumnType | None:
    """The type of a column by the name and the modifier that the catalogue has (pg_attribute.atttypmod), or ``None`` if
    it is not supported. The name of an array is that of its elements after ``_``, its modifier is theirs."""
    if name is not None and name.startswith("_"):
        element = column_type(name[1:], modifier)
        is_supported = element is not None and element.name in arrays.ELEMENTS
        return ColumnType(TypeName.ARRAY, element=element) if is_supported else None
    if name not in _TYPES:
        return None
    known = _TYPES[name][0]
    if modifier < 0:
        # bpchar without a length keeps blanks at the end and ignores them in comparisons.
        return None if known is TypeName.CHAR else ColumnType(known)
    match known:
        case TypeName.VARCHAR | TypeName.CHAR:
            return ColumnType(known, length=modifier - 4)
        case TypeName.NUMERIC:
            precision, scale = (modifier - 4) >> 16, ((modifier - 4) & 0x7FF ^ 0x400) - 0x400
            return ColumnType(known, precision=precision, scale=scale) if 0 <= scale <= precision else None
        case TypeName.TIMESTAMPTZ | TypeName.TIMESTAMP:
            return ColumnType(known) if modifier >= _MILLISECONDS else None
    return ColumnType(known)
