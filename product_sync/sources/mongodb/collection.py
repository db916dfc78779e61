"""Checks that the source is a collection that can be read by its ``_id``.

`MongoSource` calls it before it reads, `doctor` calls it to say what a sync would meet. A view, a time series or a
collection without an index on ``_id`` cannot be read page by page.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from product_sync.errors import ConfigurationError, SourceMissing
from product_sync.sources.mongodb.errors import translated

#: The hint of every read. By its key, because the index of a clustered collection has a name of its own.
BY_ID: Final = {"_id": 1}
_NAMED_AT_MOST: Final = 10
_BAD_VALUE: Final = 2


def collection_uuid(database: Database[dict[str, Any]], name: str) -> object:
    """What tells the collection from a later one of the same name.

    Raises `SourceMissing` if there is none, `ConfigurationError` if it is a view or a time series, and driver errors.
    """
    found = next(iter(database.list_collections(filter={"name": name})), None)
    if found is None:
        raise _missing(database, name)
    if found["type"] != "collection":
        raise ConfigurationError(
            f"{name!r} in the database {database.name!r} is a {found['type']}, not a collection.",
            hint="Name a collection in the mapping file (source.collection): a view or a time series has no index on"
            " _id to be read by.",
        )
    return found["info"]["uuid"]


def require_readable(database: Database[dict[str, Any]], name: str) -> object:
    """`collection_uuid`, and a check that a read can go through the index on ``_id``. Driver errors come translated:
    it is the first contact with the collection."""
    try:
        uuid = collection_uuid(database, name)
        _require_id_index(database, name)
    except PyMongoError as error:
        raise translated(error, database) from error
    return uuid


def _require_id_index(database: Database[dict[str, Any]], name: str) -> None:
    try:
        database.command(
            {"explain": {"find": name, "hint": BY_ID}, "verbosity": "queryPlanner"},
            read_preference=database.read_preference,
        )
    except OperationFailure as error:
        if error.code != _BAD_VALUE or "hint" not in str(error):
            raise
        raise ConfigurationError(
            f"The collection {name!r} in the database {database.name!r} has no index on _id to be read by.",
            hint="Create an index on _id alone, or name another collection in the mapping file (source.collection).",
        ) from error


def _missing(database: Database[dict[str, Any]], name: str) -> SourceMissing:
    collections = sorted(database.list_collection_names())
    if collections:
        return SourceMissing(
            f"The database {database.name!r} has no collection {name!r}; it has: {_some(collections)}.",
            hint="Correct source.collection in the mapping file, or the database in PRODUCT_SERVICE_MONGODB_URL.",
        )
    databases = sorted(database.client.list_database_names())
    return SourceMissing(
        f"There is no database {database.name!r}, or it is empty; there are: {_some(databases)}.",
        hint="Correct the database in PRODUCT_SERVICE_MONGODB_URL.",
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED_AT_MOST])
    return (shown or "none that this user may see") + (", …" if len(names) > _NAMED_AT_MOST else "")
