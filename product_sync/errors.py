"""Every way in which a sync can fail, and what follows from it.

Driver errors are translated into this tree once, at the adapters' edge (``raise ... from``). The tree
is cut by *consequence*, because that is what the load has to decide on; how an error looked in the
driver is in ``__cause__``::

    ProductSyncError                        code, message, hint, exit_status
    ├── ConfigurationError            2     a variable, the mapping file, the run config
    │   ├── MappingError                    the mapping file, or it does not fit the table
    │   ├── TableError                      table, column or primary key missing; type not supported
    │   └── SourceMissing                   the database or the collection does not exist
    ├── NotAttempted                  3     nothing was written, nothing was tried
    │   ├── Unreachable                     no server at that address, or it stopped answering
    │   ├── Untrusted                       the server could not prove that it is the one that was asked for
    │   ├── AccessDenied                    wrong password, or a privilege is missing
    │   ├── TargetLocked                    a statement waited too long for a lock, or for an answer of the server
    │   ├── SyncAlreadyRunning              another sync holds the lock
    │   ├── TransactionPooling              a pooler would void the lock
    │   ├── TooFewConnections               the target lets this role have fewer than a sync needs
    │   ├── ReadOnlyTarget                  a standby, or a role or database that is set read-only
    │   └── StalePlan                       the diff is too old, or was made for another target
    ├── LocalStorageError             3     this machine: the state folder's disk, a file in it, the open files
    ├── WriteError                          raised by a writer for one transaction
    │   ├── TransientError                  retry this batch
    │   │   └── CommitOutcomeUnknown        ... after asking whether it happened
    │   ├── RowsRefused                     isolate the rows
    │   │   └── RowsExcluded                ... which another row keeps out: write them once it has made way
    │   │       └── ForeignKeyRefused           ... because one of them references the other
    │   └── EveryBatchWouldFail             stop the run
    │       └── PrivilegeMissing            ... because the role lacks a right
    ├── SourceReadError               1     the source failed in mid-read
    ├── LoadStopped                   1     the run stopped after it had begun to write
    ├── ChecksFailed                  1     the run came to its end and its checks say no
    ├── SyncOverdue                   1     no sync has succeeded for longer than it may be
    └── SyncCancelled               130     SIGTERM, Ctrl-C, Terminate

The exit statuses are those of a run that has written nothing. After the first write 2 and 3 become 1, on the instance
(`product_sync.pipeline.written_rows`).

Messages name the thing, the value and the way out. None of them holds a credential.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The command's help would wait for Arrow.
    from product_sync.schema.obstacle import Obstacle


class ProductSyncError(Exception):
    """Base of all errors of this package.

    ``code`` is stable and machine-readable, ``hint`` says what to do next, ``exit_status`` is what
    the command line ends with.
    """

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


class MappingError(ConfigurationError):
    code = "mapping"


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


class LocalStorageError(ProductSyncError):
    """The state folder cannot be read or written any more, or holds a damaged file. It can happen at any moment of a
    run; after rows were written the exit status is 1."""

    code = "local_storage"
    exit_status = 3


class WriteError(ProductSyncError):
    """One transaction failed; ``sqlstate`` is the server's code, or ``None`` where it sent none."""

    code = "write"

    def __init__(self, message: str, *, sqlstate: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.sqlstate = sqlstate


class TransientError(WriteError):
    """The same transaction may succeed later; ``connection_lost`` says that a new connection is needed."""

    code = "transient"

    def __init__(
        self, message: str, *, sqlstate: str | None = None, hint: str = "", connection_lost: bool = False
    ) -> None:
        super().__init__(message, sqlstate=sqlstate, hint=hint)
        self.connection_lost = connection_lost


class CommitOutcomeUnknown(TransientError):
    """COMMIT was sent and its answer lost. ``transaction`` is the id to ask ``pg_xact_status`` about."""

    code = "commit_outcome_unknown"

    def __init__(self, message: str, *, transaction: str, written: object) -> None:
        super().__init__(message, connection_lost=True)
        self.transaction = transaction
        self.written = written


class RowsRefused(WriteError):
    """The server refused the values of at least one row of the transaction. ``step`` is the place of the refused step
    where the transaction had several, ``None`` where that is not known."""

    code = "rows_refused"
    step: int | None = None


class RowsExcluded(RowsRefused):
    """The row itself may be right: a unique, exclusion or foreign key constraint refuses it because of another row,
    which holds the same value, is referenced and absent, or refers to it.

    ``obstacles`` are those of the refused rows that could be found (`product_sync.schema.obstacle.Obstacle`).
    """

    def __init__(
        self, message: str, *, sqlstate: str | None = None, hint: str = "", obstacles: tuple[Obstacle, ...] = ()
    ) -> None:
        super().__init__(message, sqlstate=sqlstate, hint=hint)
        self.obstacles = obstacles


class ForeignKeyRefused(RowsExcluded):
    """A foreign key refuses the row: it refers to a row that is not there, or another row refers to it."""


class EveryBatchWouldFail(WriteError):
    """Permission, table, column or disk: the next batch would fail in the same way."""

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
