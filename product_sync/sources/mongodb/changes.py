"""Reads the change stream of the collection: which ``_id``s changed after a position.

Only the keys are read; the content is read by id afterwards. The stream reports what a majority of the replica set
holds. It is read from the primary: a member that lags behind would report an end that is not one.

What "everything up to now" takes (docs/decisions/0170): the time of the primary, one read that waits until a majority
has reached this time, then the stream until it is empty. A stream that was kept open answers with two replies whether
anything has changed since (docs/decisions/0215).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple

from bson.timestamp import Timestamp
from pymongo import ReadPreference
from pymongo.database import Database
from pymongo.errors import ExecutionTimeout, NetworkTimeout, OperationFailure, PyMongoError

from product_sync.errors import ChangesLost, ChangesUnavailable, ProductSyncError
from product_sync.runtime.backoff import Backoff, RetryPolicy
from product_sync.runtime.clock import SYSTEM_TIMING, Timing
from product_sync.schema.changes import ChangePosition, Changes, ClusterTime, LostReason
from product_sync.schema.records import SourceId
from product_sync.sources.mongodb.change_stream import ChangeStream
from product_sync.sources.mongodb.collection import REPLICATION_MS, collection_uuid, has_reached, with_retries
from product_sync.sources.mongodb.errors import reason, translated
from product_sync.sources.mongodb.id_match import id_of_element
from product_sync.sources.mongodb.paging import only_id

#: Events in one reply. A stream that is opened within a transaction reads all of it again, so they are not fewer.
_BATCH: Final = 20_000

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

_RETRY: Final = RetryPolicy()

_Database = Database[dict[str, Any]]


class MongoChanges:
    """`product_sync.schema.ports.ChangeFeed` of one collection. A read that fails for a transient reason, such as a
    failover, starts again from the same position, as ``retry`` says. With ``stays_open`` the stream is kept until
    `close`, for a next reading that begins where the last one has ended."""

    def __init__(
        self,
        database: _Database,
        name: str,
        *,
        retry: RetryPolicy = _RETRY,
        timing: Timing = SYSTEM_TIMING,
        stays_open: bool = False,
    ) -> None:
        self._database = database
        self._name = name
        self._retry = retry
        self._timing = timing
        self._stays_open = stays_open
        self._kept: tuple[ChangeStream, ChangePosition] | None = None

    def close(self) -> None:
        """End the stream that was kept."""
        if self._kept:
            self._kept[0].close()
        self._kept = None

    def position(self) -> ChangePosition:
        """See `ChangeFeed.position`. The time is asked for after the stream was opened, so that a read that waits for
        this time has seen everything before the token."""
        return with_retries(self._position, self._database, Backoff(self._retry, self._timing), self._unavailable)

    def changes(self, since: ChangePosition, *, max_events: int, within_s: float) -> Changes:
        if found := self._no_changes(since):
            return found
        read = partial(self._changes, since, max_events, within_s)
        return with_retries(read, self._database, Backoff(self._retry, self._timing), self._lost)

    def _position(self) -> ChangePosition:
        with closing(ChangeStream(self._database, self._name)) as stream:
            token = stream.token
        present = self._present()
        if not present.is_agreed:
            raise ChangesUnavailable(
                f"The majority of the replica set has not reached the present within {REPLICATION_MS // 1000} s.",
                hint="Changes are followed again after a full sync that starts when the members have caught up.",
            )
        return ChangePosition(_Token(token, "", present.server).text, present.time, present.collection)

    def _no_changes(self, since: ChangePosition) -> Changes | None:
        """The answer if the kept stream has no event after ``since``. With an event, an error or another position it is
        ``None``, and `_changes` makes every check.

        An open stream is of the same collection, process and history as before: a drop or rename is an event, a server
        that was restarted does not know the stream, and one that is no longer the primary refuses the first command.
        That one says up to when a majority has what the stream is asked for then, and the primary's clock.
        """
        if self._kept is None or self._kept[1] != since:
            return None
        (stream, _), self._kept = self._kept, None
        command = {
            "find": self._name, "projection": {"_id": 0, "now": "$$NOW"}, "limit": 1, "singleBatch": True,
            "maxTimeMS": REPLICATION_MS, "readConcern": {"level": "majority"},
        }  # fmt: skip
        try:
            reply = self._database.command(command, read_preference=ReadPreference.PRIMARY)
            documents, time = reply["cursor"]["firstBatch"], _cluster_time(reply["operationTime"])
            if not documents or time < since.time or not stream.is_still_at_end():
                stream.close()
                return None
        except PyMongoError:
            stream.close()
            return None
        token = _Token.parse(since.token)._replace(resume=stream.token)
        position = ChangePosition(token.text, time, since.collection)
        self._kept = stream, position
        now = _cluster_time(reply["$clusterTime"]["clusterTime"])
        return Changes({}, 0, True, position, now, _clock(documents[0]["now"], now))

    def _changes(self, since: ChangePosition, max_events: int, within_s: float) -> Changes:
        self.close()
        present, token = self._present(), _Token.parse(since.token)
        same_process = present.server == token.server
        if present.collection != since.collection:
            raise self._lost_because(LostReason.RECREATED)
        if present.time < since.time or not (same_process or token.event):
            raise self._lost_because(LostReason.RESTORED)
        token = token._replace(server=present.server, resume=token.resume if same_process else token.event)
        until = self._timing.monotonic() + within_s
        ids: dict[SourceId, ClusterTime] = {}
        events, newest, at_end = 0, since.time, False
        with ExitStack() as opened:
            while not at_end and events < max_events and (left_s := until - self._timing.monotonic()) > 0:
                opened.close()
                batch = min(_BATCH, max_events - events)
                try:
                    stream = ChangeStream(self._database, self._name, token.resume, max_events=batch, within_s=left_s)
                except (ExecutionTimeout, NetworkTimeout):
                    break
                opened.callback(stream.close)
                for event in stream.events:
                    ids[self._changed_id(event)] = newest = _cluster_time(event["clusterTime"])
                events += len(stream.events)
                at_end = not stream.events
                last = token.event if at_end else stream.events[-1]["_id"].raw.hex()
                token = token._replace(resume=stream.token, event=last)
            # At a bound, more events of the newest time may follow: those of one transaction.
            time = present.time if at_end and present.is_agreed else max(since.time, _before(newest))
            position = ChangePosition(token.text, time, since.collection)
            if at_end and self._stays_open:
                opened.pop_all()
                self._kept = stream, position
        return Changes(ids, events, at_end, position, present.time, present.clock)

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

    def _present(self) -> _Present:
        """Waits until a majority of the replica set has reached the time of the primary."""
        collection = str(collection_uuid(self._database, self._name))
        reply = self._database.client.admin.command("hello", read_preference=ReadPreference.PRIMARY)
        if "operationTime" not in reply:
            raise _standalone()
        time, server = _cluster_time(reply["operationTime"]), str(reply["topologyVersion"]["processId"])
        is_agreed = has_reached(self._database, self._name, time, "majority", ReadPreference.PRIMARY)
        return _Present(collection, time, _clock(reply["localTime"], time), server, is_agreed)

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


class _Present(NamedTuple):
    """The UUID of the collection, the newest time of the primary, its clock in seconds since 1970 and its process, and
    whether a majority has reached that time."""

    collection: str
    time: ClusterTime
    clock: int
    server: str
    is_agreed: bool


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


def _cluster_time(timestamp: Timestamp) -> ClusterTime:
    return ClusterTime(timestamp.time, timestamp.inc)


def _clock(told: datetime, time: ClusterTime) -> int:
    return max(time.seconds, int(told.replace(tzinfo=UTC).timestamp()))


def _before(time: ClusterTime) -> ClusterTime:
    """The last time before ``time``."""
    return ClusterTime(time.seconds, time.increment - 1) if time.increment else ClusterTime(time.seconds - 1, 2**32 - 1)
