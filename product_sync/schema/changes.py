"""What a source says about its changes: a position in its change stream, and the ids that changed after it.

Only times of the source's cluster are used. The clock of this machine may be wrong or jump, and a position that is
younger than the work behind it would hide a lost change for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from product_sync.schema.records import SourceId


class LostReason(StrEnum):
    """Why changes were missed. Shown to people and programs."""

    HISTORY_LOST = "history_lost"
    TOKEN_INVALID = "token_invalid"  # noqa: S105 - the name of a reason
    DROPPED = "dropped"
    RENAMED = "renamed"
    RECREATED = "recreated"
    INVALIDATED = "invalidated"
    RESTORED = "restored"
    EVENT_TOO_LARGE = "event_too_large"
    UNKNOWN_EVENT = "unknown_event"
    TOO_MANY_UNSETTLED = "too_many_unsettled"
    UNAVAILABLE = "unavailable"


class ClusterTime(NamedTuple):
    """A time of the source's cluster: seconds since 1970, and a counter within the second."""

    seconds: int
    increment: int

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def seconds_since(self, earlier: ClusterTime) -> float:
        return float(max(0, self.seconds - earlier.seconds))


@dataclass(frozen=True, slots=True)
class ChangePosition:
    """A place in the change stream of one collection.

    ``token`` is opaque: only the source that made it reads it. The changes after it are those that follow; every change
    up to ``time`` lies before it. ``collection`` is the UUID of the collection; a later collection of the same name has
    another one.
    """

    token: str
    time: ClusterTime
    collection: str


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed after a position.

    ``ids`` has each changed ``_id`` once, with the time of its newest event; an ``_id`` of an unsupported BSON type is
    `IdType.OTHER`. ``events`` counts all events. ``at_end`` is False if a bound ended the reading: more events may
    follow. ``position`` is where the next reading begins: it may be stored when all of ``ids`` are settled or kept as
    unsettled. ``now`` is the time of the cluster at the reading. It stands still while nothing is written, for up to
    ten seconds; ``clock`` goes on: seconds since 1970 by the primary's clock, at least those of ``now``.
    """

    ids: Mapping[SourceId, ClusterTime]
    events: int
    at_end: bool
    position: ChangePosition
    now: ClusterTime
    clock: int

    def age_s(self, at: ClusterTime) -> float:
        """How many seconds before the reading ``at`` was."""
        return float(max(0, self.clock - at.seconds))

    @property
    def lag_s(self) -> float:
        """How many seconds of the cluster's time lie behind the new position."""
        return self.now.seconds_since(self.position.time)
