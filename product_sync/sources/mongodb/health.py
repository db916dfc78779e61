"""What ``doctor`` shows about the source: version, latency, replica set, and the privileges of the user.

Otherwise a missing privilege would only show during a sync.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from product_sync.sources.mongodb.errors import translated

_NEEDED = ("find", "listCollections")


@dataclass(frozen=True, slots=True)
class SourceHealth:
    """``latency_ms`` is one round trip. ``granted`` and ``lacking`` are the actions that a sync needs: ``find`` on the
    collection and ``listCollections`` on the database, both in the role ``read``. ``estimated_count`` is ``None``
    without the right to read."""

    version: str
    latency_ms: float
    replica_set: str | None
    is_primary: bool
    granted: tuple[str, ...]
    lacking: tuple[str, ...]
    estimated_count: int | None


def inspect(
    database: Database[dict[str, Any]], collection: str, *, clock: Callable[[], float] = time.perf_counter
) -> SourceHealth:
    """Query the server; ``clock`` counts seconds.

    Raises `Unreachable` or `AccessDenied` if no query is possible. A missing privilege is a result, not an error.
    `collection.require_readable` checks that the collection exists and can be read.
    """
    try:
        hello = database.client.admin.command("hello")
        started = clock()
        database.client.admin.command("ping")
        latency_ms = (clock() - started) * 1_000
        granted = _granted(database, collection)
        return SourceHealth(
            version=str(database.client.server_info()["version"]),
            latency_ms=latency_ms,
            replica_set=hello.get("setName"),
            is_primary=bool(hello.get("isWritablePrimary")),
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
    """The actions on one collection, or on the database itself if ``collection`` is empty.

    In the resource of a privilege an empty name means every database, or every collection that is not a system
    collection (MongoDB manual, "Resource Document").
    """
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
