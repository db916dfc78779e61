"""Finds the index that serves a filter, and says what a filter without one costs.

A page needs the documents that match, in the order of ``_id``. An index that ends in ``_id`` returns them so if the
filter compares all its other fields with single values. The server says whether it can: an index that needs a sort
would read the whole result again for each page (docs/decisions/0115).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from product_sync.sources.mongodb.errors import is_transient

_BY_ID: Final = {"_id": 1}
#: Indexes that may lack documents or sort them in another way.
_OTHERS: Final = frozenset({"partialFilterExpression", "sparse", "collation", "hidden"})
_SAMPLED: Final = 1_000
#: Reading the whole collection is worth a warning if less than this part of it matches.
_MATCHES: Final = 0.9

_Collection = Collection[dict[str, Any]]
_Query = Mapping[str, Any]


def index_for(collection: _Collection, query: _Query) -> str | None:
    """The name of the index that returns the documents of ``query`` in the order of ``_id`` without a sort, the one
    with the most fields. ``None`` if there is none but that on ``_id``. Raises driver errors."""
    found = [
        index
        for index in collection.list_indexes()
        if len(index["key"]) > 1
        and list(index["key"].items())[-1] == ("_id", 1)
        and not _OTHERS & index.keys()
        and "SORT" not in _stages(_plan(collection, query, str(index["name"])))
    ]
    return str(max(found, key=lambda index: len(index["key"]))["name"]) if found else None


def scan_note(collection: _Collection, query: _Query) -> str:
    """What a read costs without such an index, as a sentence; empty if nearly all documents match. Raises driver
    errors."""
    share = _matching_share(collection, query)
    if share is not None and share > _MATCHES:
        return ""
    part = "the filter keeps a part" if share is None else f"about {100 * share:.0f} % match the filter"
    fields = [name for name, value in query.items() if _is_single(value)]
    key = ", ".join(f"{json.dumps(name)}: 1" for name in [*fields, "_id"])
    way_out = (
        f"This index would serve it: db[{json.dumps(collection.name)}].createIndex({{{key}}})."
        if fields
        else "An index can serve only fields that the filter compares with single values, and it has none."
    )
    return (
        f"Every run reads all documents of {collection.name}, of which {part}: no index returns them in the order of"
        f" _id. {way_out}"
    )


def _plan(collection: _Collection, query: _Query, index: str) -> Any:
    command = {"find": collection.name, "filter": query, "sort": _BY_ID, "hint": index}
    explain = {"explain": command, "verbosity": "queryPlanner"}
    explained = collection.database.command(explain, read_preference=collection.read_preference)
    return explained["queryPlanner"]["winningPlan"]


def _stages(plan: Any) -> Iterator[str]:
    """The names of all stages; versions and sharded clusters nest them in different ways."""
    if isinstance(plan, dict):
        if isinstance(plan.get("stage"), str):
            yield plan["stage"]
        plan = list(plan.values())
    if isinstance(plan, list):
        for part in plan:
            yield from _stages(part)


def _matching_share(collection: _Collection, query: _Query) -> float | None:
    """The share of a sample that matches; all of no documents. ``None`` for a filter that only a find can have."""
    pipeline: list[dict[str, Any]] = [
        {"$sample": {"size": _SAMPLED}},
        {"$facet": {"all": [{"$count": "n"}], "matching": [{"$match": query}, {"$count": "n"}]}},
    ]
    try:
        [counts] = collection.aggregate(pipeline)
    except OperationFailure as error:
        if is_transient(error):
            raise
        return None
    matching, every = (counts[name][0]["n"] if counts[name] else 0 for name in ("matching", "all"))
    return matching / every if every else 1.0


def _is_single(value: object) -> bool:
    """Whether a condition of a filter is one value, or a list of them."""
    return not isinstance(value, Mapping) or value.keys() in ({"$eq"}, {"$in"})
