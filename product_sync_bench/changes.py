"""Products that the source has changed since the last sync, and one look of the watch at them.

The catalogue must stay as it is, so a product is changed in a field that is not mapped: its event is like any other.
One in a hundred of the changed products has another price in the target, as if its event had been lost.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Final

from pymongo import MongoClient

from product_sync.pipeline.kept_databases import KeptDatabases
from product_sync.pipeline.watch import look
from product_sync.schema.definition import DEFAULT_NAME, load_definitions
from product_sync.settings import state_root
from product_sync.state.store import StateFolder
from product_sync_bench.catalogue import COLLECTION
from product_sync_bench.contestants import Place
from product_sync_bench.databases import Target
from product_sync_bench.measuring import Cost

_LOST_SHARE: Final = 0.01
#: The default of ``settle_seconds``, and a second: a pass does not wait for events that are older.
SETTLED_S: Final = 6.0


def change(place: Place, target: Target, count: int) -> None:
    """Change the first ``count`` products, and wait until the events count as settled."""
    if not count:
        return
    with MongoClient[dict[str, Any]](place.source_url) as client:
        products = client.get_default_database()[COLLECTION]
        ids = [each["_id"] for each in products.find({}, {"_id": 1}).sort("_id", 1).limit(count)]
        products.update_many({"_id": {"$lte": ids[-1]}}, {"$set": {"updatedAt": datetime.now(UTC)}})
    target.lose_events([str(each) for each in ids[:: round(1 / _LOST_SHARE)]])
    time.sleep(SETTLED_S)


class Watch:
    """The look of the watch, in this process, which is warm and connected after the first one."""

    def __init__(self) -> None:
        self._kept: KeptDatabases | None = None

    def look(self, place: Place) -> Cost:
        """What a look costs this process. ``status`` is 1 if there was no position to look from, or too many events."""
        env = place.environment()
        if self._kept is None:
            [definition] = [each for each in load_definitions(env) if each.name == DEFAULT_NAME]
            self._kept = KeptDatabases(definition)
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        with self._kept.use(env) as databases:
            found = look(databases, StateFolder(state_root(env), databases.state_key), settle_s=SETTLED_S - 1)
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        return Cost(wall_s, cpu_s, 0, int(found.stored is None or found.backlog))
