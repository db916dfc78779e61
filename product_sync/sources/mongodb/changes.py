"""Reads the change stream of the collection: which ``_id``s changed after a position.

Only the keys are read (``$project``), so that the event of a document of 15 MB arrives, and the content is read by id
afterwards. The stream reports what a majority of the replica set holds. It is read from the primary: a member that lags
behind would report an end that is not one.

What "everything up to now" takes (docs/decisions/0170): the time of the primary, one read that waits until a majority
has reached this time, then the stream until it is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from functools import partial
from typing import Any, Final, NamedTuple

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo import ReadPreference
from pymongo.change_stream import ChangeStream
from pymongo.database import Database
from pymongo.errors import OperationFailure

from product_sync.errors import ChangesLost, ChangesUnavailable, ProductSyncError
from product_sync.runtime.backoff import Backoff, RetryPolicy
from product_sync.runtime.clock import Timing
from product_sync.schema.changes import ChangePosition, Changes, ClusterTime, LostReason
from product_sync.schema.records import SourceId
from product_sync.sources.mongodb.collection import REPLICATION_MS, collection_uuid, has_reached, with_retries
from product_sync.sources.mongodb.errors import reason, translated
from product_sync.sources.mongodb.id_match import id_of_element
from product_sync.sources.mongodb.paging import only_id

_PIPELINE: Final = [{"$project": {"operationType": 1, "documentKey._id": 1, "clusterTime": 1}}]
_RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(document_class=RawBSONDocument)
#: Events in one reply.
_BATCH: Final = 5_000
#: Milliseconds that the server waits for an event at the end of the stream. The driver's default is a second.
_AWAIT_MS: Final = 1

_STANDALONE, _UNAUTHORIZED, _AUTHENTICATION_FAILED = 40573, 13, 18
#: Codes of mongodb/mongo, ``src/mongo/base/error_codes.yml``. Any other one is about the token: 280, 260, 15, 9, and
#: a dozen of the parser of tokens.
_LOST: Final = {
    286: LostReason.HISTORY_LOST,  # ChangeStreamHistoryLost
    136: LostReason.HISTORY_LOST,  # CappedPositionLost
    10334: LostReason.EVENT_TOO_LARGE,  # BSONObjectTooLarge
}
_ENDS: Final = {
    "drop": LostReason.DROPPED,
    "dropDatabase": LostReason.DROPPED,
    "rename": LostReason.RENAMED,
    "invalidate": LostReason.INVALIDATED,
}
_TEXTS: Final = {
    LostReason.HISTORY_LOST: "the source's oplog no longer reaches back to the stored position",
    LostReason.TOKEN_INVALID: "the source does not accept the stored position",
    LostReason.EVENT_TOO_LARGE: "an event is larger than 16 MB",
    LostReason.DROPPED: "the collection was dropped",
    LostReason.RENAMED: "the collection was renamed, or another was renamed to its name",
    LostReason.RECREATED: "another collection has its name now",
    LostReason.INVALIDATED: "the source ended the change stream",
    LostReason.RESTORED: "the source has restarted or failed over since, and no event shows that its history is the"
    " same; a backup may have been restored",
    LostReason.UNKNOWN_EVENT: "the change stream has an event of an unknown kind",
}
_FULL_RUN = "The next full sync compares everything, and changes are followed again from there."
_LONGER_OPLOG = f"{_FULL_RUN} Give the source a longer oplog, or follow the changes at shorter intervals."

_Database = Database[dict[str, Any]]


class MongoChanges:
    """`product_sync.schema.ports.ChangeFeed` of one collection. A read that fails for a transient reason, such as a
    failover, starts again from the same position, as ``retry`` says."""

    def __init__(self, database: _Database, name: str, *, retry: RetryPolicy, timing: Timing) -> None:
        self._database = database
        self._name = name
        self._retry = retry
        self._timing = timing

    def position(self) -> ChangePosition:
        """See `ChangeFeed.position`. The time is asked for after the stream was opened, so that a read that waits for
        this time has seen everything before the token."""
        return with_retries(self._position, self._database, Backoff(self._retry, self._timing), self._unavailable)

    def changes(self, since: ChangePosition, *, max_events: int, within_s: float) -> Changes:
        """See `ChangeFeed.changes`."""
        read = partial(self._changes, since, max_events, within_s)
        return with_retries(read, self._database, Backoff(self._retry, self._timing), self._lost)

    def _position(self) -> ChangePosition:
        collection = self._collection_uuid()
        with self._stream() as stream:
            stream.try_next()
            resume = _token_of(stream)
        time, _, server = self._now()
        if not self._majority_has(time):
            raise ChangesUnavailable(
                f"The majority of the replica set has not reached the present within {REPLICATION_MS // 1000} s.",
                hint="Changes are followed again after a full sync that starts when the members have caught up.",
            )
        return ChangePosition(_Token(resume, "", server).text, time, collection)

    def _changes(self, since: ChangePosition, max_events: int, within_s: float) -> Changes:
        if self._collection_uuid() != since.collection:
            raise self._lost_because(LostReason.RECREATED)
        now, clock, server = self._now()
        token = _Token.parse(since.token)
        if now < since.time or (server != token.server and not token.event):
            raise self._lost_because(LostReason.RESTORED)
        confirmed = self._majority_has(now)
        until = self._timing.monotonic() + within_s
        ids: dict[SourceId, ClusterTime] = {}
        events, newest, at_end = 0, None, False
        last: RawBSONDocument | None = None
        with self._stream(token.resume if server == token.server else token.event) as stream:
            while events < max_events and (self._timing.monotonic() < until or not events):
                event = stream.try_next()
                if event is None:
                    at_end = True
                    break
                newest = _cluster_time(event["clusterTime"])
                ids[self._changed_id(event)] = newest
                events, last = events + 1, event
            resume = _token_of(stream)
        seen = last["_id"].raw.hex() if last is not None else token.event
        # At a bound, more events of the newest time may follow: those of one transaction.
        time = now if at_end and confirmed else max(since.time, _before(newest or since.time))
        position = ChangePosition(_Token(resume, seen, server).text, time, since.collection)
        return Changes(ids, events, at_end, position, now, clock)

    def _changed_id(self, event: Mapping[str, Any]) -> SourceId:
        """The id that any event names is looked at. The kind of the event does not matter: what counts is the document
        as it is now."""
        kind = str(event["operationType"])
        if kind in _ENDS:
            raise self._lost_because(_ENDS[kind])
        key = event.get("documentKey")
        if key is None:
            raise self._lost_because(LostReason.UNKNOWN_EVENT, f" ({kind!r})")
        return id_of_element(only_id(key.raw))

    def _stream(self, after: str = "") -> ChangeStream[Any]:
        token = RawBSONDocument(bytes.fromhex(after)) if after else None
        collection = self._database.get_collection(
            self._name, codec_options=_RAW, read_preference=ReadPreference.PRIMARY
        )
        return collection.watch(_PIPELINE, resume_after=token, batch_size=_BATCH, max_await_time_ms=_AWAIT_MS)

    def _collection_uuid(self) -> str:
        return str(collection_uuid(self._database, self._name))

    def _now(self) -> _Now:
        reply = self._database.client.admin.command("hello", read_preference=ReadPreference.PRIMARY)
        if "operationTime" not in reply:
            raise _standalone()
        time = _cluster_time(reply["operationTime"])
        clock = int(reply["localTime"].replace(tzinfo=UTC).timestamp())
        return _Now(time, max(clock, time.seconds), str(reply["topologyVersion"]["processId"]))

    def _majority_has(self, time: ClusterTime) -> bool:
        return has_reached(self._database, self._name, time, "majority", ReadPreference.PRIMARY)

    def _unavailable(self, error: OperationFailure) -> ProductSyncError:
        """The error if no stream can be opened at all."""
        if error.code == _STANDALONE:
            return _standalone()
        known = translated(error, self._database)
        if error.code == _AUTHENTICATION_FAILED:
            return known
        if error.code == _UNAUTHORIZED:
            return ChangesUnavailable(f"The changes cannot be followed. {known.message}", hint=known.hint)
        return ChangesUnavailable(f"The source refuses a change stream: {reason(error)}.", hint="Full syncs work.")

    def _lost(self, error: OperationFailure) -> ProductSyncError:
        if error.code in (_STANDALONE, _UNAUTHORIZED, _AUTHENTICATION_FAILED):
            return self._unavailable(error)
        return self._lost_because(_LOST.get(error.code or 0, LostReason.TOKEN_INVALID), f" ({reason(error)})")

    def _lost_because(self, why: LostReason, detail: str = "") -> ChangesLost:
        return ChangesLost(
            f"Changes of the collection {self._name!r} were missed: {_TEXTS[why]}{detail}.",
            reason=why,
            hint=_LONGER_OPLOG if why == LostReason.HISTORY_LOST else _FULL_RUN,
        )


def _standalone() -> ChangesUnavailable:
    return ChangesUnavailable(
        "The source is a standalone server, which has no change stream.",
        hint="Full syncs work. To follow the changes, make the server a replica set (one member is enough).",
    )


class _Now(NamedTuple):
    """The newest time of the primary, its clock in seconds since 1970, and its process."""

    time: ClusterTime
    clock: int
    server: str


class _Token(NamedTuple):
    """What `ChangePosition.token` holds. ``resume`` is where the stream goes on, ``event`` the last event before that
    ("" for none), ``server`` the process of the primary.

    The server looks an event up in its oplog, but accepts any other token. So after a restart or a failover the stream
    goes on at the event: if a backup was restored that does not have it, the position is lost and not trusted.
    """

    resume: str
    event: str
    server: str

    @classmethod
    def parse(cls, text: str) -> _Token:
        return cls(*text.split(":"))

    @property
    def text(self) -> str:
        return ":".join(self)


def _token_of(stream: ChangeStream[Any]) -> str:
    token = stream.resume_token
    assert token is not None, "every reply of a supported server has a resume token"  # noqa: S101
    return bson.encode(token).hex()


def _cluster_time(timestamp: Timestamp) -> ClusterTime:
    return ClusterTime(timestamp.time, timestamp.inc)


def _before(time: ClusterTime) -> ClusterTime:
    """The last time before ``time``."""
    return ClusterTime(time.seconds, time.increment - 1) if time.increment else ClusterTime(time.seconds - 1, 2**32 - 1)
