"""The state of the source's replica set, as far as the user may see it.

Without a primary every sync fails, and a set that lost a member may lose its primary next. The health check reports it
before a sync fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from product_sync.sources.mongodb.errors import translated

#: The states of a healthy member (MongoDB manual, "Replica Set Member States").
_SOUND = frozenset({"PRIMARY", "SECONDARY", "ARBITER"})


@dataclass(frozen=True, slots=True)
class Member:
    """``behind_s`` is how many seconds it is behind the primary; ``None`` if that is unknown."""

    name: str
    state: str
    behind_s: float | None

    @property
    def is_sound(self) -> bool:
        return self.state in _SOUND


@dataclass(frozen=True, slots=True)
class Replication:
    """``name`` is ``None`` for a server outside of a replica set and for mongos. ``members`` is ``None`` without the
    role ``clusterMonitor``."""

    name: str | None
    primary: str | None
    members: tuple[Member, ...] | None

    @property
    def unsound(self) -> list[Member]:
        return [member for member in self.members or () if not member.is_sound]

    @property
    def behind_s(self) -> float | None:
        """How far the slowest member is behind the primary."""
        known = [member.behind_s for member in self.members or () if member.behind_s is not None]
        return max(known, default=None)

    def __str__(self) -> str:
        if self.name is None:
            return "no replica set"
        if self.members is None:
            members = "its members are not visible to this user (that takes the role clusterMonitor)"
        else:
            members = ", ".join(map(_in_words, self.members))
        return f"replica set {self.name}, primary {self.primary or 'unknown'}: {members}"


def replication(database: Database[dict[str, Any]]) -> Replication:
    """Query the server. Raises the errors of `inspect`; a missing privilege is a result, not an error."""
    try:
        hello = database.client.admin.command("hello")
        if "setName" not in hello:
            return Replication(None, None, None)
        return Replication(hello["setName"], hello.get("primary"), _members(database))
    except PyMongoError as error:
        raise translated(error, database) from error


def _members(database: Database[dict[str, Any]]) -> tuple[Member, ...] | None:
    try:
        found = database.client.admin.command("replSetGetStatus")["members"]
    except OperationFailure:
        return None
    newest = max((member["optimeDate"] for member in found if _state(member) == "PRIMARY"), default=None)
    return tuple(Member(member["name"], _state(member), _behind(member, newest)) for member in found)


def _state(member: dict[str, Any]) -> str:
    """The server's own word; for a member that does not reply it is ``(not reachable/healthy)``."""
    return str(member["stateStr"])


def _behind(member: dict[str, Any], newest: datetime | None) -> float | None:
    if newest is None or _state(member) != "SECONDARY":
        return None
    # The primary's entry may be older than the latest message of a secondary.
    at: datetime = member["optimeDate"]
    return max(0.0, (newest - at).total_seconds())


def _in_words(member: Member) -> str:
    behind = "" if member.behind_s is None else f" {member.behind_s:.0f} s behind"
    return f"{member.name} {member.state}{behind}"
