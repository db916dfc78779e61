"""What ``doctor`` and the health check show about the source: version, latency, privileges of the user, replica set.

Otherwise a missing privilege would only show during a sync. Without a primary every sync fails, and a set that lost a
member may lose its primary next.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from product_sync.sources.mongodb.errors import is_transient, translated

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
        answers = {"find": _asked(database[collection].estimated_document_count)}
        answers["listCollections"] = _asked(partial(database.list_collections, filter={"name": collection}))
        return SourceHealth(
            version=str(database.client.server_info()["version"]),
            latency_ms=latency_ms,
            replica_set=hello.get("setName"),
            granted=tuple(action for action, answer in answers.items() if answer is not None),
            lacking=tuple(action for action, answer in answers.items() if answer is None),
            estimated_count=answers["find"],
        )
    except PyMongoError as error:
        raise translated(error, database) from error


def _asked(question: Callable[[], Any]) -> Any:
    """The answer of the server; ``None`` if it refuses this user."""
    try:
        return question()
    except OperationFailure as error:
        if is_transient(error):
            raise
        return None


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
