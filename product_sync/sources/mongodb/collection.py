"""The collection as a source: checks that it can be read by its ``_id``, and sends the commands that read it.

A view, a time series or a collection without an index on ``_id`` cannot be read page by page. ``doctor`` makes the same
checks before a sync.

Read concerns (docs/decisions/0005): a page of the snapshot is what a majority of the replica set holds, so it never
shows a value that a failover takes back. The other reads return what the primary holds *now*: while the majority lags
behind, its value is older than the one that an event has already carried to the target.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from bson.codec_options import CodecOptions
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo import ReadPreference
from pymongo.database import Database
from pymongo.errors import ExecutionTimeout, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from product_sync.conversion.document import IN_NO_DOCUMENT
from product_sync.conversion.elements import Documents, elements
from product_sync.errors import ChangesUnavailable, ConfigurationError, ProductSyncError, SourceMissing, SourceReadError
from product_sync.runtime.backoff import Backoff, RetryPolicy
from product_sync.runtime.clock import Timing
from product_sync.schema.changes import ClusterTime
from product_sync.schema.row_schema import RowSchema
from product_sync.schema.source_filter import expression_of, query_of
from product_sync.sources.mongodb import filter_index
from product_sync.sources.mongodb.errors import failed_in_mid_read, is_transient, reason, translated
from product_sync.sources.mongodb.url import address_of

_LOGGER = logging.getLogger(__name__)

#: The hint of every read. By its key, because the index of a clustered collection has another name.
BY_ID: Final = {"_id": 1}
_ID_INDEX: Final = list(BY_ID.items())
_ONLY_ID: Final = {"$project": {"_id": 1}}
_NAMED_AT_MOST: Final = 10
_BAD_VALUE: Final = 2
_EXPIRED: Final = 50
#: Milliseconds that counting the whole collection may take.
_COUNT_MS: Final = 1_000
#: Milliseconds to wait until a member of the replica set has reached a time.
REPLICATION_MS: Final = 10_000
#: The message of an error may quote a document with bytes that are not UTF-8.
_RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(
    document_class=RawBSONDocument, unicode_decode_error_handler="replace"
)

Query = Mapping[str, Any]
_Database = Database[dict[str, Any]]
_Result = TypeVar("_Result")


class SourceCollection:
    """The commands that read one collection: only the documents that match the filter of the mapping.

    A read that fails for a transient reason is tried again as ``retry`` says.
    """

    def __init__(self, database: _Database, row_schema: RowSchema, *, retry: RetryPolicy, timing: Timing) -> None:
        self._database = database
        self._name = name = row_schema.collection
        self._filter = query_of(row_schema.filter)
        self._expressions = row_schema.expressions
        self._retry = retry
        self._timing = timing
        self._primary = database.get_collection(
            name, read_preference=ReadPreference.PRIMARY, read_concern=ReadConcern("local")
        )
        self._uuid: object = None
        self._page_index: Query | str = BY_ID
        self._page_concern: dict[str, Any] = {"level": "majority"}

    def require_readable(self) -> None:
        """As the function `require_readable`. Later checks compare with the collection that was found here."""
        self._uuid = require_readable(self._database, self._name, self._filter, self._expressions)
        if note := self.scan_note():
            _LOGGER.warning("%s", note)

    def scan_note(self) -> str:
        """A sentence about the filter if no index serves it and reads cost much more for it. Else pages use the
        index."""
        if not self._filter:
            return ""
        index = self._with_retries(partial(filter_index.index_for, self._primary, self._filter))
        self._page_index = index or BY_ID
        return "" if index else self._with_retries(partial(filter_index.scan_note, self._primary, self._filter))

    def confirm_found(self) -> None:
        """Check once that the collection exists: reads of a missing collection return no documents and no error."""
        if self._uuid is None:
            self.confirm_unchanged()

    def confirm_unchanged(self) -> None:
        """Raises `SourceReadError` if another collection has replaced the one that was read first."""
        current = self._with_retries(partial(collection_uuid, self._database, self._name))
        if self._uuid is None:
            self._uuid = current
        elif current != self._uuid:
            raise SourceReadError(
                f"The collection {self._name!r} was replaced by another of the same name while it was being read.",
                hint="Start the sync again when the catalogue is complete.",
            )

    def has_collation(self) -> bool:
        """Whether the collection has a collation, which orders and compares its strings in another way."""
        found = self._with_retries(partial(_found, self._database, self._name))
        return "collation" in (found or {}).get("options", {})

    def sample_ids(self, count: int) -> list[bytes]:
        """The ``_id``s of about ``count`` documents at random, as BSON documents; fewer with a filter."""
        stages = [{"$sample": {"size": count}}, *([{"$match": self._filter}] if self._filter else ()), _ONLY_ID]
        raw = self._primary.with_options(codec_options=_RAW, read_preference=self._database.read_preference)
        return self._with_retries(lambda: [bytes(found.raw) for found in raw.aggregate(stages)])

    def read_after(self, time: ClusterTime) -> None:
        """Every later read has seen what was written up to ``time``. The primary is asked once: the driver never goes
        back to an earlier one. A page may come from any member, so each one waits.

        Raises `ChangesUnavailable` if that takes too long.
        """
        for level, member in (("local", ReadPreference.PRIMARY), ("majority", self._database.read_preference)):
            if not self._with_retries(partial(has_reached, self._database, self._name, time, level, member)):
                raise ChangesUnavailable(
                    f"A member of the replica set lags more than {REPLICATION_MS // 1000} s behind the primary.",
                    hint="Changes are followed again after a full sync that starts when it has caught up.",
                )
        self._page_concern = {"level": "majority", "afterClusterTime": Timestamp(*time)}

    def page(self, query: Query, projection: Query, rows: int) -> Documents:
        """At most ``rows`` documents in the order of ``_id``. Ends at 16 MiB, so a short page is not always the last.

        A single batch leaves no cursor open on the server. Without its own batch size it would end after 101 documents.
        """
        command = {
            "hint": self._page_index, "sort": BY_ID, "limit": rows, "batchSize": rows,
            "readConcern": self._page_concern,
        }  # fmt: skip
        return self._find(query, projection, command, self._database.read_preference)

    def current(self, query: Query, projection: Query, rows: int) -> Documents:
        """About ``rows`` documents that the primary holds now, or fewer if their size exceeds 16 MiB."""
        command = {"hint": BY_ID, "batchSize": rows, "readConcern": {"level": "local"}}
        return self._find(query, projection, command, ReadPreference.PRIMARY)

    def all_current(self, query: Query, projection: Query) -> list[bytes]:
        """All documents that the primary holds now."""

        def read() -> list[bytes]:
            # Not `find_raw_batches`: it cannot read an error message that is not UTF-8.
            raw = self._primary.with_options(codec_options=_RAW)
            with raw.find(self._matching(query), projection, hint=_ID_INDEX) as documents:
                return [bytes(document.raw) for document in documents]

        return self._with_retries(read)

    def evaluated(self, query: Query, projection: Query) -> int:
        """How many documents of the query, in the order of ``_id``, the server returns before the first on which the
        projection fails; 0 if this server does not say it. Documents may change meanwhile."""
        find = {"find": self._name, "filter": self._matching(query), "projection": projection, "hint": BY_ID}
        command = {"explain": {**find, "sort": BY_ID}, "verbosity": "executionStats"}
        preference = self._database.read_preference
        run = partial(self._database.command, command, read_preference=preference, codec_options=_RAW)
        return int(self._with_retries(run).get("executionStats", {}).get("nReturned", 0))

    def count(self) -> int:
        """How many documents the primary holds now. Counts them; the metadata may be wrong after a crash."""
        return self._with_retries(partial(self._primary.count_documents, self._filter, hint=_ID_INDEX))

    def count_ids(self, query: Query) -> int:
        """How many documents a query by ``_id`` finds now, counted in the index."""
        local = {"level": "local"}
        command = {"count": self._name, "query": self._matching(query), "hint": BY_ID, "readConcern": local}
        run = partial(self._database.command, command, read_preference=ReadPreference.PRIMARY)
        return int(self._with_retries(run)["n"])

    def estimated_count(self) -> int:
        """The approximate number of documents of the whole collection."""
        return self._with_retries(self._primary.estimated_document_count)

    def whole_count(self) -> tuple[int, bool]:
        """How many documents the whole collection has, and whether they were counted: within a second, in the index."""
        try:
            counted = self._primary.count_documents({}, hint=_ID_INDEX, maxTimeMS=_COUNT_MS)
        except ExecutionTimeout:
            return self.estimated_count(), False
        except PyMongoError as error:
            raise failed_in_mid_read(error, self._database) from error
        return counted, True

    def _find(self, query: Query, projection: Query, options: dict[str, Any], preference: Any) -> Documents:
        command = {"find": self._name, "filter": self._matching(query), "projection": projection, "singleBatch": True}
        run = partial(self._database.command, command | options, read_preference=preference, codec_options=_RAW)
        return _first_batch(bytes(self._with_retries(run)["cursor"].raw))

    def _matching(self, query: Query) -> Query:
        return {"$and": [query, self._filter]} if self._filter else query

    def _with_retries(self, read: Callable[[], _Result]) -> _Result:
        return with_retries(read, self._database, Backoff(self._retry, self._timing))


def with_retries(
    read: Callable[[], _Result],
    database: Database[Any],
    backoff: Backoff,
    fatal: Callable[[OperationFailure], ProductSyncError] | None = None,
) -> _Result:
    """Run ``read`` until it succeeds, fails for good, or the time for retries is used up. ``fatal`` makes the error of
    a refused operation."""
    while True:
        backoff.attempt()
        try:
            return read()
        except PyMongoError as error:
            # A frame of the driver refers to the error: a cycle. With the command and the reply, which the frames hold,
            # it would stay until Python looks for cycles.
            error.__traceback__ = None
            if is_transient(error) and backoff.wait():
                continue
            if fatal and isinstance(error, OperationFailure) and not is_transient(error):
                raise fatal(error) from error
            raise failed_in_mid_read(error, database) from error


def _first_batch(cursor: bytes) -> Documents:
    """The documents of a reply to ``find``. They stay in one block: the driver's own raw batches make an object per
    document and join them again, which takes half of the client's time for a read."""
    try:
        batch = next((element for element in elements(cursor) if element.name == b"firstBatch"), None)
    except InvalidBSON:
        batch = None
    if batch is None:
        raise SourceReadError(f"The reply of the server has no first batch: {cursor[:64]!r}.")
    return Documents.of_array(cursor, batch.start)


def collection_uuid(database: _Database, name: str) -> object:
    """The UUID of the collection. A later collection of the same name has another one.

    Raises `SourceMissing` if there is none, `ConfigurationError` for a view or a time series, and driver errors.
    """
    found = _found(database, name)
    if found is None:
        raise _missing(database, name)
    if found["type"] != "collection":
        raise ConfigurationError(
            f"{name!r} in the database {database.name!r} is a {found['type']}, not a collection.",
            hint="Name a collection in the mapping file (source.collection): a view or a time series has no index on"
            " _id to be read by.",
        )
    return found["info"]["uuid"]


def _found(database: _Database, name: str) -> Any:
    """What the server says of the collection; ``None`` if there is none."""
    return next(iter(database.list_collections(filter={"name": name})), None)


def has_reached(database: _Database, name: str, time: ClusterTime, level: str, member: Any) -> bool:
    """Wait until ``member`` (a read preference) holds what was written up to ``time``. False if that takes too long."""
    command = {
        # Nothing of the document comes back: its _id may have bytes that the driver does not decode.
        "find": name, "projection": {"_id": 0, IN_NO_DOCUMENT: 1}, "limit": 1, "singleBatch": True,
        "maxTimeMS": REPLICATION_MS, "readConcern": {"level": level, "afterClusterTime": Timestamp(*time)},
    }  # fmt: skip
    try:
        database.command(command, read_preference=member)
    except OperationFailure as error:
        if error.code != _EXPIRED:
            raise
        return False
    return True


def require_readable(database: _Database, name: str, source_filter: Query, expressions: Mapping[str, object]) -> object:
    """`collection_uuid`, and a check that the server accepts the filter and the expressions of the columns, and can
    read through the index on ``_id``. Raises translated errors, as this is the first access to the collection."""
    try:
        uuid = collection_uuid(database, name)
        _require_index(database, name)
        hint = "source.filter in the mapping file: a query as for find(), with the operators of MongoDB"
        _require_accepted(database, name, f"filter of the collection {name!r}", hint, query_of(source_filter))
        for column, expression in expressions.items():
            hint = f"columns.{column}.expression in the mapping file: an aggregation expression of MongoDB"
            value = {"_id": 1, "value": expression_of(expression)}
            _require_accepted(database, name, f"expression of the column {column!r}", hint, {}, value)
    except PyMongoError as error:
        raise translated(error, database) from error
    return uuid


def _require_index(database: _Database, name: str) -> None:
    try:
        _explain(database, name, {})
    except OperationFailure as error:
        if error.code != _BAD_VALUE or "hint" not in str(error):
            raise
        raise ConfigurationError(
            f"The collection {name!r} in the database {database.name!r} has no index on _id to be read by.",
            hint="Create an index on _id alone, or name another collection in the mapping file (source.collection).",
        ) from error


def _require_accepted(database: _Database, name: str, what: str, hint: str, *asked: Query) -> None:
    try:
        _explain(database, name, *asked)
    except OperationFailure as error:
        if is_transient(error):
            raise
        raise ConfigurationError(f"MongoDB refuses the {what}: {reason(error)}.", hint=f"Correct {hint}.") from error


def _explain(database: _Database, name: str, query: Query, projection: Query = BY_ID) -> None:
    command = {"find": name, "filter": query, "projection": projection, "sort": BY_ID, "hint": BY_ID}
    database.command({"explain": command, "verbosity": "queryPlanner"}, read_preference=database.read_preference)


def _missing(database: _Database, name: str) -> SourceMissing:
    collections = sorted(database.list_collection_names())
    if collections:
        return SourceMissing(
            f"The database {database.name!r} has no collection {name!r}; it has: {_some(collections)}.",
            hint=f"Correct source.collection in the mapping file, or the database in {address_of(database).variable}.",
        )
    databases = sorted(database.client.list_database_names())
    return SourceMissing(
        f"There is no database {database.name!r}, or it is empty; there are: {_some(databases)}.",
        hint=f"Correct the database in {address_of(database).variable}.",
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED_AT_MOST])
    return (shown or "none that this user may see") + (", …" if len(names) > _NAMED_AT_MOST else "")
