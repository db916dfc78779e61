"""The floor of reading the source: the six fields of every product as raw BSON, not decoded. Run as a program."""

import os
from typing import Any

from pymongo import MongoClient

_FIELDS = ("_id", "title", "price", "image", "sellerId", "quantity")
#: Smaller batches cost round trips, larger ones are slower again (design section 7).
_BATCH = 5_000

if __name__ == "__main__":
    with MongoClient[dict[str, Any]](os.environ["BENCH_SOURCE"]) as client:
        collection = client.get_default_database()["products"]
        for _batch in collection.find_raw_batches({}, dict.fromkeys(_FIELDS, 1), batch_size=_BATCH):
            pass
