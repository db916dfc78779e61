"""How the columns of a table are filled: one spec for each mapped column, and what all of them must fit together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from product_sync.errors import Mistake
from product_sync.schema import mapping_errors, source_filter

_RESERVED = frozenset({"source_id_type"})
Name = Annotated[str, Field(min_length=1, max_length=63)]


class Kind(StrEnum):
    """``value``: the column's own type rules. ``reference``: the id of another document, as text."""

    VALUE = "value"
    REFERENCE = "reference"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("a name of the IANA time zone database, such as UTC or Europe/Berlin") from None
    return name


class ColumnSpec(Strict):
    """How one target column is filled.

    ``source`` is a dotted path into the document (``_id`` for the id). A missing or null value takes the
    ``default`` if one is given; else it is an error when ``required``, and NULL otherwise. ``expression`` takes the
    place of ``source``: MongoDB evaluates it for each document (`source_filter.expression_of`). ``value`` is the same
    for every row, and takes the place of ``source`` too. So does ``now``: the column gets the time of each write, and
    is never compared. With ``update: false`` the column is written on insert and never compared or overwritten
    afterwards. ``zone`` is the time zone whose clock a timestamp shows,
    or whose midnight a date is.
    """

    source: Annotated[str, Field(min_length=1)] | None = None
    expression: Annotated[Any, AfterValidator(source_filter.checked_expression)] = None
    value: Any = None
    now: bool = False
    kind: Kind = Kind.VALUE
    required: bool = True
    default: Any = None
    update: bool = True
    zone: Annotated[str, AfterValidator(_known_zone)] | None = None

    @field_validator("source")
    @classmethod
    def _path(cls, source: str | None) -> str | None:
        if source is not None and any(not part or part.startswith("$") or "\0" in part for part in source.split(".")):
            raise ValueError("a dotted path of field names, such as price or price.amount")
        return source

    @model_validator(mode="after")
    def _one_origin(self) -> ColumnSpec:
        if [self.source, self.expression, self.value, self.now or None].count(None) != 3:
            raise ValueError("a column has one of `source`, `expression`, `now: true` and `value`, which is not null")
        is_plain = self.required and not self.has_default and self.kind is Kind.VALUE
        if not is_plain and (self.is_id or self.is_constant):
            key = "source: _id" if self.is_id else "now" if self.now else "value"
            raise ValueError(f"`{key}` takes no `default`, no `required: false` and no `kind`: every row has it")
        return self

    @property
    def path(self) -> tuple[str, ...]:
        """Empty for an ``expression``, a ``value`` and ``now``."""
        return () if self.source is None else tuple(self.source.split("."))

    @property
    def is_constant(self) -> bool:
        """Whether the value has nothing to do with the document."""
        return self.now or self.value is not None

    @property
    def is_id(self) -> bool:
        return self.source == "_id"

    @property
    def has_default(self) -> bool:
        return self.default is not None


def fitting_columns(given: Any, handler: ValidatorFunctionWrapHandler) -> dict[str, ColumnSpec]:
    """Columns of which each is valid, and that fit each other. All mistakes are raised together."""
    try:
        columns: dict[str, ColumnSpec] = handler(given)
    except ValidationError as error:
        valid = _valid_columns(given) if isinstance(given, Mapping) else {}
        raise mapping_errors.mistaken(_mistakes_among(valid), error) from None
    mistakes = [*_missing_columns(columns), *_mistakes_among(columns)]
    if mistakes:
        raise mapping_errors.mistaken(mistakes)
    return columns


def _valid_columns(given: Mapping[str, Any]) -> dict[str, ColumnSpec]:
    valid = dict[str, ColumnSpec]()
    for name, spec in given.items():
        with suppress(ValidationError):
            valid[name] = ColumnSpec.model_validate(spec)
    return valid


def _missing_columns(columns: Mapping[str, ColumnSpec]) -> Iterator[Mistake]:
    if not any(spec.is_id for spec in columns.values()):
        yield Mistake((), "has no column with `source: _id`; exactly one must have it.")
    elif sum(not spec.now for spec in columns.values()) == 1:
        yield Mistake((), "has only the id and no value to compare; map at least one more column.")


def _mistakes_among(columns: Mapping[str, ColumnSpec]) -> Iterator[Mistake]:
    paths = {name: spec.path for name, spec in columns.items() if spec.path}
    first_id = next((name for name, spec in columns.items() if spec.is_id), None)
    for name in _RESERVED & columns.keys():
        yield Mistake((name,), "has a name that product_sync uses itself; give the column another one in the table.")
    for name, path in paths.items():
        if columns[name].is_id and name != first_id:
            yield Mistake((name, "source"), f"is _id, as that of {first_id} is; exactly one column has it.")
        for other, longer in paths.items():
            if path != longer and longer[: len(path)] == path:
                parent = f"`{'.'.join(path)}`, the source of {name}"
                yield Mistake((other, "source"), f"is inside {parent}; a field is either a value or holds others.")
