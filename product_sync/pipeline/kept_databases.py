"""The two sides for the watch, which looks at them every half minute from a process that lives for weeks.

The connection to the source and its change stream stay open between the looks, and the columns of the table are kept.
To make them anew for each look would cost a login, three connections and six times the replies of MongoDB
(docs/decisions/0200, 0215). They end after ten minutes and after an error, so that nothing lasts that a server no
longer has.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property
from typing import Any, Final

from product_sync.pipeline.databases import Databases
from product_sync.runtime.clock import SYSTEM_TIMING, Timing
from product_sync.runtime.typed_settings import Environment
from product_sync.schema.definition import SyncDefinition
from product_sync.schema.scope import EVERYTHING, ReadScope
from product_sync.sources import mongodb

_KEEP_S: Final = 600.0


class ConnectedDatabases(Databases):
    """`Databases` whose connection to the source and change stream, once opened, stay open until `close` or its end."""

    @contextmanager
    def open_source(
        self, timing: Timing = SYSTEM_TIMING, scope: ReadScope = EVERYTHING
    ) -> Iterator[mongodb.MongoSource]:
        yield mongodb.MongoSource(self._database, self.row_schema, timing=timing, scope=scope, changes=self._changes)

    def close(self) -> None:
        self._open.close()

    @cached_property
    def _database(self) -> Any:
        """The driver's database."""
        return self._open.enter_context(mongodb.connect(self.source, seldom_used=True))

    @cached_property
    def _changes(self) -> mongodb.MongoChanges:
        name = self.definition.source.collection
        return self._open.enter_context(closing(mongodb.MongoChanges(self._database, name, stays_open=True)))

    @cached_property
    def _open(self) -> ExitStack:
        opened = ExitStack()
        weakref.finalize(self, opened.close)
        return opened


class KeptDatabases:
    """Gives the same `ConnectedDatabases` again and again, to one thread at a time."""

    def __init__(self, definition: SyncDefinition) -> None:
        self._definition = definition
        self._kept: ConnectedDatabases | None = None
        self._until = 0.0
        self._alone = threading.Lock()

    @contextmanager
    def use(self, env: Environment) -> Iterator[ConnectedDatabases]:
        """Raises `ConfigurationError` for a variable that is not set. An error of the block ends what is kept."""
        with self._alone:
            try:
                yield self._current(env)
            except BaseException:
                self._forget()
                raise

    def _current(self, env: Environment) -> ConnectedDatabases:
        made, kept = ConnectedDatabases.of(self._definition, env), self._kept
        if kept is not None and kept == made and time.monotonic() <= self._until:
            return kept
        self._forget()
        self._kept, self._until = made, time.monotonic() + _KEEP_S
        return made

    def _forget(self) -> None:
        kept, self._kept = self._kept, None
        if kept:
            kept.close()
