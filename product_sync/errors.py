"""All errors of the package.

Driver errors are translated into this tree once, in the adapters (``raise ... from``). The tree is ordered by
*consequence*, because the load decides by it; the driver's error is in ``__cause__``::

    ProductSyncError                        code, message, hint, exit_status
    ├── ConfigurationError            2     a variable, the mapping file, the run config
    │   ├── MappingError                    the mapping file, or it does not fit the table
    │   ├── TableError                      table, column or primary key missing; type not supported
    │   └── SourceMissing                   the database or the collection does not exist
    ├── NotAttempted                  3     nothing was written, nothing was tried
    │   ├── Unreachable                     no server at that address, or it stopped answering
    │   ├── Untrusted                       the server could not prove its identity
    │   ├── AccessDenied                    wrong password, or a privilege is missing
    │   ├── TargetLocked                    a statement waited too long for a lock or for the server
    │   ├── SyncAlreadyRunning              another sync holds the lock
    │   ├── TransactionPooling              a connection pooler would make the lock useless
    │   ├── TooFewConnections               the role may have fewer connections than a sync needs
    │   ├── ReadOnlyTarget                  a standby, or a role or database that is set read-only
    │   ├── StalePlan                       the diff is too old, or was made for another target
    │   ├── ChangesUnavailable              the source cannot be followed: only full runs
    │   ├── ChangesLost                     changes were missed: the next run must be full
    │   └── StateStoreError                 the object store that holds the state does not answer
    ├── LocalStorageError             3     this machine: the state folder, its disk, open files
    ├── WriteError                          raised by a writer for one transaction
    │   ├── TransientError                  retry this batch
    │   │   └── CommitOutcomeUnknown        ... after asking whether the commit happened
    │   ├── RowsRefused                     isolate the rows
    │   │   └── RowsExcluded                ... because of another row: write them later
    │   │       └── ForeignKeyRefused           ... because one of them references the other
    │   └── EveryBatchWouldFail             stop the run
    │       └── PrivilegeMissing            ... because the role lacks a right
    ├── SourceReadError               1     the source failed during a read
    ├── LoadStopped                   1     the run stopped after it had begun to write
    ├── ChecksFailed                  1     the run ended and a check failed
    ├── SyncOverdue                   1     no sync has succeeded for too long
    └── SyncCancelled               130     SIGTERM, Ctrl-C, Terminate

The exit statuses are for a run that has written nothing. After the first write, 2 and 3 become 1 (`product_sync.api`).

Messages name the thing, the value and the way out. No message holds a credential.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    # Importing it imports Arrow, which would slow down the command's help.
    from product_sync.schema.obstacle import Obstacle


class ProductSyncError(Exception):
    """``code`` is stable and for programs, ``hint`` says what to do next, ``exit_status`` is that of the command."""

    code = "error"
    exit_status = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class ConfigurationError(ProductSyncError):
    code = "configuration"
    exit_status = 2


class Mistake(NamedTuple):
    """A sentence about the place in a mapping that ``place`` names, such as ``("columns", "price")``."""

    place: tuple[str | int, ...]
    text: str


class MappingError(ConfigurationError):
    """``mistakes`` are all those of a definition that is not valid."""

    code = "mapping"

    def __init__(self, message: str, *, hint: str = "", mistakes: Sequence[Mistake] = ()) -> None:
        super().__init__(message, hint=hint)
        self.mistakes = mistakes


class TableError(ConfigurationError):
    code = "table"


class SourceMissing(ConfigurationError):
    code = "source_missing"


class NotAttempted(ProductSyncError):
    code = "not_attempted"
    exit_status = 3


class Unreachable(NotAttempted):
    code = "unreachable"


class Untrusted(NotAttempted):
    code = "untrusted"


class AccessDenied(NotAttempted):
    code = "access_denied"


class TargetLocked(NotAttempted):
    code = "target_locked"


class SyncAlreadyRunning(NotAttempted):
    code = "already_running"

    def __init__(self, message: str, *, holder: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.holder = holder


class TransactionPooling(NotAttempted):
    code = "transaction_pooling"


class TooFewConnections(NotAttempted):
    code = "too_few_connections"


class ReadOnlyTarget(NotAttempted):
    code = "read_only"


class StalePlan(NotAttempted):
    code = "stale_plan"


class ChangesUnavailable(NotAttempted):
    code = "changes_unavailable"


class ChangesLost(NotAttempted):
    """``reason`` is a stable code."""

    code = "changes_lost"

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class StateStoreError(NotAttempted):
    """The object store that holds the state did not answer in time. It can happen at any moment of a run."""

    code = "state_store"


class LocalStorageError(ProductSyncError):
    """The state folder cannot be read or written, or has a damaged file. It can happen at any moment of a run."""

    code = "local_storage"
    exit_status = 3


class WriteError(ProductSyncError):
    """One transaction failed. ``sqlstate`` is the server's code, if it sent one."""

    code = "write"

    def __init__(self, message: str, *, sqlstate: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.sqlstate = sqlstate


class TransientError(WriteError):
    """The same transaction may succeed later. ``connection_lost`` says that it needs a new connection."""

    code = "transient"

    def __init__(
        self, message: str, *, sqlstate: str | None = None, hint: str = "", connection_lost: bool = False
    ) -> None:
        super().__init__(message, sqlstate=sqlstate, hint=hint)
        self.connection_lost = connection_lost


class CommitOutcomeUnknown(TransientError):
    """COMMIT was sent and its answer was lost. ``transaction`` is the id for ``pg_xact_status``."""

    code = "commit_outcome_unknown"

    def __init__(self, message: str, *, transaction: str, written: object) -> None:
        super().__init__(message, connection_lost=True)
        self.transaction = transaction
        self.written = written


class RowsRefused(WriteError):
    """The server refused the values of at least one row of the transaction. ``step`` is the number of the refused step,
    if the transaction had several and it is known."""

    code = "rows_refused"
    step: int | None = None


class RowsExcluded(RowsRefused):
    """A unique, exclusion or foreign key constraint refused a row because of another row. The row itself may be right.
    ``obstacles`` are the other rows that were found."""

    def __init__(
        self, message: str, *, sqlstate: str | None = None, hint: str = "", obstacles: tuple[Obstacle, ...] = ()
    ) -> None:
        super().__init__(message, sqlstate=sqlstate, hint=hint)
        self.obstacles = obstacles


class ForeignKeyRefused(RowsExcluded):
    """A foreign key refuses the row: it refers to a row that is not there, or another row refers to it."""


class EveryBatchWouldFail(WriteError):
    """A permission, the table, a column or the disk is wrong, so the next batch would fail in the same way."""

    code = "stopped"


class PrivilegeMissing(EveryBatchWouldFail):
    """The role lacks a right on the table."""


class SourceReadError(ProductSyncError):
    code = "source_read"


class LoadStopped(ProductSyncError):
    code = "load_stopped"


class ChecksFailed(ProductSyncError):
    code = "checks_failed"


class SyncOverdue(ProductSyncError):
    code = "sync_overdue"


class SyncCancelled(ProductSyncError):
    code = "cancelled"
    exit_status = 130
