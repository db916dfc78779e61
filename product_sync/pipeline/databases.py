"""The two databases of a sync: its definition, with the addresses that the environment gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from product_sync.runtime.clock import SYSTEM_TIMING, Timing
from product_sync.runtime.typed_settings import Environment
from product_sync.schema.addresses import SourceAddress, TargetAddress
from product_sync.schema.definition import SyncDefinition
from product_sync.schema.records import TargetTable
from product_sync.schema.row_schema import RowSchema, resolve_mapping
from product_sync.schema.scope import EVERYTHING, ReadScope
from product_sync.sources import mongodb
from product_sync.targets.postgres import lock
from product_sync.targets.postgres.connection import without_credentials
from product_sync.targets.postgres.reader import PostgresReader
from product_sync.targets.postgres.reflection import reflect
from product_sync.targets.postgres.waits import OnWait, log_wait


@dataclass(frozen=True)
class Databases:
    """Made by `of`. Connects when a connection is first needed."""

    definition: SyncDefinition
    source: SourceAddress
    target: TargetAddress

    @classmethod
    def of(cls, definition: SyncDefinition, env: Environment) -> Self:
        """Raises `ConfigurationError` for a variable that is not set."""
        source = SourceAddress.from_environment(env, definition.source)
        return cls(definition, source, TargetAddress.from_environment(env, definition.target))

    @contextmanager
    def open_source(
        self, timing: Timing = SYSTEM_TIMING, scope: ReadScope = EVERYTHING
    ) -> Iterator[mongodb.MongoSource]:
        """The source, on a connection that has replied once. Raises as `mongodb.connect`."""
        with mongodb.connect(self.source) as database:
            yield mongodb.MongoSource(database, self.row_schema, timing=timing, scope=scope)

    def reader(self, on_wait: OnWait = log_wait, scope: ReadScope = EVERYTHING) -> PostgresReader:
        return PostgresReader(self.target, self.row_schema, on_wait=on_wait, scope=scope)

    @cached_property
    def row_schema(self) -> RowSchema:
        """The mapped columns as the target table has them. The target is asked once. Raises `ConfigurationError` or
        `NotAttempted` for a column that does not fit."""
        target = self.definition.target
        return resolve_mapping(self.definition, reflect(self.target, target.db_schema, target.table))

    @cached_property
    def state_key(self) -> str:
        """The name of the state folder of these two sides. Asks the target for its columns."""
        return self.row_schema.state_key(self._source_name, self._target_name)

    @property
    def table(self) -> TargetTable:
        return TargetTable(self.definition.target.db_schema, self.definition.target.table, ())

    @property
    def identity(self) -> list[Any]:
        """The two addresses without credentials, and the mapping; known without a connection."""
        columns = [
            [name, spec.model_dump(exclude_defaults=True)] for name, spec in sorted(self.definition.columns.items())
        ]
        source = self.definition.source
        sides = [self._source_name, source.collection, self._target_name, self.table.qualified_name, columns]
        return [*sides, source.filter] if source.filter else sides

    def __str__(self) -> str:
        """The collection, the table and their hosts, for people; without credentials."""
        return (
            f"From the collection {self.definition.source.collection} of {self._source_name}"
            f" to the table {self.table.qualified_name} of {self._target_name}"
        )

    def lock_holder(self, *, within_s: float | None = None) -> str | None:
        return lock.lock_holder(self.target, self.table, within_s=within_s)

    def wait_until_lock_is_free(self, wait_s: float, on_wait: OnWait) -> None:
        """Wait until no other sync holds the lock. Raises `SyncAlreadyRunning` after ``wait_s`` seconds."""
        lock.wait_until_free(self.target, self.table, wait_s=wait_s, on_wait=on_wait)

    def count(self) -> tuple[int, int]:
        with self.open_source() as source:
            documents = source.count()
        return documents, self.reader().count()

    @property
    def _source_name(self) -> str:
        return mongodb.without_credentials(self.source)

    @property
    def _target_name(self) -> str:
        return without_credentials(self.target)
