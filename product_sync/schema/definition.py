"""A sync as a value: which collection is copied into which table, column by column, and what people call it.

It comes from a YAML file (a mapping file) or from Python, and is validated once. Everything else takes the value and
looks up no mapping and no address by itself. The definition that ships is ``product_sync/schema/product.yaml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    WrapValidator,
    model_validator,
)

from product_sync.errors import MappingError
from product_sync.runtime import hints
from product_sync.schema import mapping_errors, source_filter
from product_sync.schema.column_spec import ColumnSpec, Name, Strict, fitting_columns
from product_sync.schema.mapping_file import read_mapping

#: Names the mapping file, or a folder in which each YAML file is a sync.
MAPPING = "PRODUCT_SYNC_MAPPING"
DEFAULT_MAPPING = Path(__file__).with_name("product.yaml")
#: The name of a sync whose file is named by itself and says no other.
DEFAULT_NAME = "product"
SOURCE_URL, SOURCE_USER, SOURCE_PASSWORD = "PRODUCT_SERVICE_MONGODB_URL", "MONGO_USER", "MONGO_PASSWORD"
TARGET_URL = "CART_DB_URL"

Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class SourceSpec(Strict):
    """A collection, and the environment variables that hold the URL of its MongoDB and, if the URL has none, a user
    and a password. ``filter`` is a query in extended JSON (`source_filter`): only documents that match it are synced.
    """

    collection: Annotated[str, Field(min_length=1)]
    filter: Annotated[dict[str, Any], AfterValidator(source_filter.checked)] = Field(default_factory=dict)
    url_variable: Variable = SOURCE_URL
    user_variable: Variable = SOURCE_USER
    password_variable: Variable = SOURCE_PASSWORD


class TargetSpec(Strict):
    """A table, and the environment variable that holds the URL of its PostgreSQL. ``table`` is looked up in ``schema``;
    letter case counts, as in PostgreSQL's quoted names."""

    table: Name
    db_schema: Annotated[Name, Field(alias="schema")] = "public"
    url_variable: Variable = TARGET_URL

    @property
    def qualified_name(self) -> str:
        return f"{self.db_schema}.{self.table}"


class Labels(Strict):
    """What the UI calls one row, several rows, and the two sides."""

    item: Name = "row"
    items: Name = "rows"
    source: Name = "MongoDB"
    target: Name = "PostgreSQL"


def _default_labels(known: dict[str, Any]) -> Labels:
    if known["name"] == DEFAULT_NAME:
        return Labels(item="product", items="products", source="the product service", target="the cart service")
    item = known["name"].replace("_", " ")
    return Labels(item=item, items=item if item.endswith("s") else f"{item}s")


def _sync_name(name: str) -> str:
    words = name.split("_")
    if not all(word.isascii() and word.isalnum() and word == word.lower() for word in words) or not name[0].isalpha():
        raise ValueError("lower-case letters, digits and `_`, a letter first, such as seller")
    if words[0] == "validate":
        raise ValueError("another name: one that begins with `validate` would be taken for a validation job")
    return name


class SyncDefinition(Strict):
    """One sync. Assets, jobs, checks and the schedule are named by its ``name`` (`orchestration.names`)."""

    name: Annotated[str, Field(min_length=1, max_length=40), AfterValidator(_sync_name)] = DEFAULT_NAME
    source: SourceSpec
    target: TargetSpec
    columns: Annotated[dict[Name, ColumnSpec], WrapValidator(fitting_columns)]
    labels: Labels = Field(default_factory=_default_labels)
    _distinct_from_others: frozenset[frozenset[str]] = PrivateAttr(frozenset())

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Raises `MappingError` with every mistake."""
        try:
            return handler(given)
        except ValidationError as error:
            raise mapping_errors.explained(cls, error) from None

    @property
    def expressions(self) -> dict[str, object]:
        return {name: spec.expression for name, spec in self.columns.items() if spec.expression is not None}

    _commands: hints.SyncCommands | None = PrivateAttr(None)

    @property
    def commands(self) -> hints.SyncCommands:
        """Makes the commands of hints. They name the sync, unless the project has no other."""
        return self._commands or hints.SyncCommands("" if self.name == DEFAULT_NAME else self.name)

    def found_by(self, commands: hints.SyncCommands) -> SyncDefinition:
        """This definition, whose `commands` are those."""
        self._commands = commands
        return self

    @property
    def target_key(self) -> tuple[str, str, str]:
        """What no two syncs of a project may share, unless they are of different tenants."""
        return self.target.url_variable, self.target.db_schema, self.target.table

    @property
    def distinct_from_others(self) -> frozenset[frozenset[str]]:
        """For each other sync of the project with the same table: the columns of which both have a constant value, and
        not the same."""
        return self._distinct_from_others

    def shares_table(self, distinct: frozenset[str]) -> None:
        """Note that another sync has the same table and other constant values in the columns ``distinct``."""
        self._distinct_from_others |= {distinct}


def _distinct_constants(one: SyncDefinition, other: SyncDefinition) -> frozenset[str]:
    """The columns that have different constant values in the two syncs. Values count as the same if some column type
    takes them as the same, such as 1, 1.0 and "1"."""
    mine, theirs = (
        {name: _as_any_type(spec.value) for name, spec in sync.columns.items() if spec.value is not None}
        for sync in (one, other)
    )
    return frozenset(name for name in mine.keys() & theirs.keys() if mine[name] != theirs[name])


def _as_any_type(value: object) -> str:
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    return str(whole).casefold()


def load_definition(path: Path = DEFAULT_MAPPING, default_name: str = DEFAULT_NAME) -> SyncDefinition:
    """Read and validate a mapping file (YAML). Raises `MappingError` with every mistake, the file and the lines."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise _cannot_read(path, error) from error
    file = read_mapping(path, text)
    given = {"name": default_name, **file.content} if isinstance(file.content, dict) else file.content
    try:
        definition = SyncDefinition.model_validate(given)
    except MappingError as error:
        mistakes = sorted([*file.mistakes, *error.mistakes], key=lambda each: file.line(each.place))
        raise mapping_errors.all_of(mistakes, file.where) from None
    if file.mistakes:
        raise mapping_errors.all_of(file.mistakes, file.where)
    return definition


def load_definitions(env: Mapping[str, str], mapping: str | Path | None = None) -> tuple[SyncDefinition, ...]:
    """All syncs of the project, by name: of the file or folder ``mapping``, else of the one that `MAPPING` names, else
    the one that ships. Raises `MappingError` for files that are not valid, and for two syncs of one name or one
    target."""
    path = Path(mapping or env.get(MAPPING) or DEFAULT_MAPPING).expanduser()
    named = "" if mapping is None else str(mapping)
    if not path.is_dir():
        return (load_definition(path).found_by(hints.SyncCommands(mapping=named)),)
    try:
        files = sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
    except OSError as error:
        raise _cannot_read(path, error) from error
    if not files:
        raise MappingError(
            f"The mapping folder {path} holds no mapping file.", hint="Each file *.yaml or *.yml of it is a sync."
        )
    definitions, faults = dict[Path, SyncDefinition](), list[MappingError]()
    for file in files:
        try:
            definitions[file] = load_definition(file, file.stem)
        except MappingError as error:
            faults.append(error)
    if faults:
        raise MappingError("\n".join(fault.message for fault in faults), hint=faults[0].hint)
    require_distinct({f"mapping file {file}": definition for file, definition in definitions.items()})
    is_only = len(definitions) == 1
    return tuple(
        each.found_by(hints.SyncCommands("" if is_only else each.name, named))
        for each in sorted(definitions.values(), key=lambda each: each.name)
    )


def require_distinct(definitions: Mapping[str, SyncDefinition]) -> None:
    """Each sync has a name and a table of its own, or rows of its own in a shared table (`tenant_columns`). Raises
    `MappingError` for two that do not, with their keys in ``definitions``."""
    for (place, one), (other_place, other) in combinations(definitions.items(), 2):
        shared = ""
        if one.name == other.name:
            shared = f"the name {one.name}"
        elif one.target_key == other.target_key:
            if distinct := _distinct_constants(one, other):
                one.shares_table(distinct)
                other.shares_table(distinct)
                continue
            shared = f"the target table {one.target.qualified_name} of {one.target.url_variable}"
        if shared:
            raise MappingError(
                f"The {place} and the {other_place} both have {shared}.",
                hint="Two syncs of one project need different names, and different tables or different constant"
                " values of a column that is part of the table's key.",
            )


def _cannot_read(path: Path, error: OSError) -> MappingError:
    return MappingError(
        f"Cannot read the mapping file {path}: {error.strerror}.",
        hint=f"Name a readable file (the option mapping, or {MAPPING}), or none to use the default.",
    )
