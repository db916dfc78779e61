"""What ``doctor`` and the health check show about the source: version, latency, privileges of the user, replica set.

Otherwise a missing privilege would only show during a sync. Without a primary every sync fails, and a set that lost a
member may lose its primary next.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from product_sync.sources.mongodb.errors import translated

_NEEDED = ("find", "listCollections")
#: The states of a healthy member (MongoDB manual, "Replica Set Member States").
_SOUND = frozenset({"PRIMARY", "SECONDARY", "ARBITER"})


@dataclass(frozen=True, slots=True)
class SourceHealth:
    """``latency_ms`` is one round trip. ``granted`` and ``lacking`` are the actions that a sync needs: ``find`` on the
    collection and ``listCollections`` on the database, both in the role ``read``. ``estimated_count`` is ``None``
    without the right to read."""

    version: str
    latency_ms: float
    replica_set: str | None
    granted: tuple[str, ...]
    lacking: tuple[str, ...]
    estimated_count: int | None


def inspect(database: Database[dict[str, Any]], collection: str) -> SourceHealth:
    """Query the server. Raises `Unreachable` or `AccessDenied` if no query is possible. A missing privilege is a
    result, not an error. `collection.require_readable` checks that the collection exists and can be read."""
    try:
        hello = database.client.admin.command("hello")
        started = time.perf_counter()
        database.client.admin.command("ping")
        latency_ms = (time.perf_counter() - started) * 1_000
        granted = _granted(database, collection)
        return SourceHealth(
            version=str(database.client.server_info()["version"]),
            latency_ms=latency_ms,
            replica_set=hello.get("setName"),
            granted=tuple(action for action in _NEEDED if action in granted),
            lacking=tuple(action for action in _NEEDED if action not in granted),
            estimated_count=database[collection].estimated_document_count() if "find" in granted else None,
        )
    except PyMongoError as error:
        raise translated(error, database) from error


def _granted(database: Database[dict[str, Any]], collection: str) -> frozenset[str]:
    """The needed actions that the user has: all of them on a server without access control."""
    status = database.client.admin.command("connectionStatus", showPrivileges=True)["authInfo"]
    if not status["authenticatedUsers"]:
        return frozenset(_NEEDED) if _is_open(database, collection) else frozenset()
    privileges = status["authenticatedUserPrivileges"]
    return frozenset(_actions(privileges, database.name, collection) & {"find"}) | frozenset(
        _actions(privileges, database.name, "") & {"listCollections"}
    )


def _is_open(database: Database[dict[str, Any]], collection: str) -> bool:
    try:
        database[collection].find_one({}, {"_id": 1})
    except OperationFailure:
        return False
    return True


def _actions(privileges: Iterable[dict[str, Any]], database: str, collection: str) -> set[str]:
    """The actions on one collection, or on the database itself if ``collection`` is empty. In the resource of a
    privilege an empty name means every database, or every collection that is not a system collection (MongoDB manual,
    "Resource Document")."""
    return {
        action
        for privilege in privileges
        if _covers(privilege["resource"], database, collection)
        for action in privilege["actions"]
    }


def _covers(resource: dict[str, Any], database: str, collection: str) -> bool:
    if resource.get("anyResource"):
        return True
    return resource.get("db") in ("", database) and resource.get("collection") in ("", collection)


@dataclass(frozen=True, slots=True)
class Member:
    """``behind_s`` is how many seconds it is behind the primary; ``None`` if that is unknown."""

    name: str
    state: str
    behind_s: float | None

    def __str__(self) -> str:
        behind = "" if self.behind_s is None else f" {self.behind_s:.0f} s behind"
        return f"{self.name} {self.state}{behind}"


@dataclass(frozen=True, slots=True)
class Replication:
    """``name`` is ``None`` for a server outside of a replica set and for mongos. ``members`` is ``None`` without the
    role ``clusterMonitor``."""

    name: str | None
    primary: str | None
    members: tuple[Member, ...] | None

    @property
    def unsound(self) -> list[Member]:
        return [member for member in self.members or () if member.state not in _SOUND]

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
            members = ", ".join(map(str, self.members))
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
    newest = max((member["optimeDate"] for member in found if member["stateStr"] == "PRIMARY"), default=None)
    return tuple(Member(member["name"], member["stateStr"], _behind(member, newest)) for member in found)


def _behind(member: dict[str, Any], newest: datetime | None) -> float | None:
    if newest is None or member["stateStr"] != "SECONDARY":
        return None
    # The primary's entry may be older than the latest message of a secondary.
    at: datetime = member["optimeDate"]
    return max(0.0, (newest - at).total_seconds())
