"""The mapping file: which field of a product goes into which column. It is data, not code.

Without it the six fields would be spelled out in the reader, the writer and the comparison, and a
seventh would mean a release. The default ships as ``product_sync/schema/product.yaml``.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from product_sync.errors import MappingError

DEFAULT_MAPPING = Path(__file__).with_name("product.yaml")
#: Keys whose values are names.
_NAMES = frozenset({"source", "collection", "schema", "table"})
_RESERVED = frozenset({"source_id_type"})
Name = Annotated[str, Field(min_length=1, max_length=63)]


class Kind(StrEnum):
    """``value``: the column's own type rules. ``reference``: the id of another document, as text."""

    VALUE = "value"
    REFERENCE = "reference"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ColumnSpec(_Strict):
    """How one target column is filled.

    ``source`` is a dotted path into the document (``_id`` for the id). A missing or null value takes the
    ``default`` if one is given; else it is an error when ``required``, and NULL otherwise. With
    ``update: false`` the column is written on insert and never compared or overwritten afterwards.
    """

    source: Annotated[str, Field(min_length=1)]
    kind: Kind = Kind.VALUE
    required: bool = True
    default: Any = None
    update: bool = True

    @field_validator("source")
    @classmethod
    def _path(cls, source: str) -> str:
        if any(not part or part.startswith("$") or "\0" in part for part in source.split(".")):
            raise ValueError("a dotted path of field names, such as price or price.amount")
        return source

    @model_validator(mode="after")
    def _plain_id(self) -> ColumnSpec:
        if self.is_id and (self.has_default or not self.required or self.kind is not Kind.VALUE):
            raise ValueError("`source: _id` takes no `default`, no `required: false` and no `kind`: every id is there")
        return self

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(self.source.split("."))

    @property
    def is_id(self) -> bool:
        return self.source == "_id"

    @property
    def has_default(self) -> bool:
        return self.default is not None


class SourceSpec(_Strict):
    collection: Annotated[str, Field(min_length=1)]


class TargetSpec(_Strict):
    """``table`` is looked up in ``schema``; letter case counts, as in PostgreSQL's quoted names."""

    table: Name
    db_schema: Annotated[Name, Field(alias="schema")] = "public"


class Mapping(_Strict):
    source: SourceSpec
    target: TargetSpec
    columns: dict[Name, ColumnSpec]

    @model_validator(mode="after")
    def _one_id(self) -> Mapping:
        ids = [name for name, spec in self.columns.items() if spec.is_id]
        if len(ids) != 1:
            raise ValueError(f"exactly one column must have `source: _id`, found {ids or 'none'}")
        if len(self.columns) == 1:
            raise ValueError("at least one column beside the id must be mapped")
        if reserved := _RESERVED & self.columns.keys():
            raise ValueError(f"column names used by product_sync itself: {sorted(reserved)}")
        paths = [spec.path for spec in self.columns.values()]
        for path in paths:
            if any(path != other and other[: len(path)] == path for other in paths):
                raise ValueError(f"`{'.'.join(path)}` is both a value and the parent of another value")
        return self


class _MappingLoader(yaml.SafeLoader):
    """YAML whose names are taken as they are written, and that refuses a key given twice.

    To YAML 1.1 `no`, `on` and `yes` are booleans, `null` is nothing and `1` a number; a column or a field may have
    such a name. Of two lines for one column, PyYAML would drop the first in silence.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        for key, value in node.value:
            _as_written(key)
            if isinstance(key, yaml.ScalarNode) and key.value in _NAMES:
                _as_written(value)
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", node.value[position][0].start_mark
                )
        return super().construct_mapping(node, deep)


def _as_written(node: yaml.Node) -> None:
    """Make a text of a plain scalar. A merge key stays one."""
    if isinstance(node, yaml.ScalarNode) and node.tag != "tag:yaml.org,2002:merge":
        node.tag = "tag:yaml.org,2002:str"


def load_mapping(path: Path = DEFAULT_MAPPING) -> Mapping:
    """Read and validate a mapping file (YAML). Raises `MappingError` naming the file, the place and the fault."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _MappingLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise MappingError(
            f"Cannot read the mapping file {path}: {error.strerror}.",
            hint="Name a readable file (the option mapping, or PRODUCT_SYNC_MAPPING), or none to use the default.",
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date such as 2024-02-30
        raise MappingError(f"The mapping file {path} is not valid YAML: {error}.") from error
    try:
        return Mapping.model_validate(document)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'file'}: {fault['msg']}" for fault in error.errors()
        )
        raise MappingError(
            f"The mapping file {path} is not valid: {faults}.",
            hint=f"Compare it with {DEFAULT_MAPPING.name} of the package.",
        ) from error
