"""The peer `dlt`: PyMongoArrow tables, merged with the strategy ``upsert``. Run as a program, with a working folder.

dlt's own MongoDB source is a template that is copied into a project, and its Arrow reader does not work with current
PyMongoArrow. This is what it does, with a schema given, so that nothing has to be guessed from the data.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any, Final

os.environ |= {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    # dlt would make seller_id of sellerId.
    "SCHEMA__NAMING": "direct",
}

import dlt
import pyarrow as pa
from pymongo import MongoClient
from pymongoarrow.api import Schema
from pymongoarrow.context import PyMongoArrowContext
from pymongoarrow.types import ObjectIdType

_SCHEMA: Final = Schema(
    {
        "_id": ObjectIdType(),
        "title": pa.string(),
        "price": pa.int32(),
        "image": pa.string(),
        "sellerId": ObjectIdType(),
        "quantity": pa.int32(),
    }
)
_TYPES: Final[dict[str, dict[str, Any]]] = {
    "id": {"data_type": "text"},
    "title": {"data_type": "text"},
    "price": {"data_type": "bigint", "precision": 32},
    "image": {"data_type": "text"},
    "sellerId": {"data_type": "text"},
    "quantity": {"data_type": "bigint", "precision": 32},
}
#: dlt's own default for a chunk of a MongoDB collection.
_BATCH: Final = 10_000


def products(url: str) -> Iterator[Any]:
    with MongoClient[dict[str, Any]](url) as client:
        collection = client.get_default_database()["products"]
        projection = dict.fromkeys(_SCHEMA, 1)
        for batch in collection.find_raw_batches({}, projection, batch_size=_BATCH):
            context = PyMongoArrowContext(_SCHEMA, codec_options=collection.codec_options)
            context.process_bson_stream(batch)
            yield _table(context.finish())


def _table(documents: Any) -> Any:
    columns = {name: documents[name] for name in ("title", "price", "image", "quantity")}
    columns |= {"id": _hex(documents["_id"]), "sellerId": _hex(documents["sellerId"])}
    return pa.table({name: columns[name] for name in _TYPES})


def _hex(ids: Any) -> Any:
    return pa.array([value.hex() for value in ids.combine_chunks().storage.to_pylist()], pa.string())


def main(folder: str, file_format: str) -> None:
    resource = dlt.resource(
        products(os.environ["BENCH_SOURCE"]),
        name="product",
        primary_key="id",
        write_disposition={"disposition": "merge", "strategy": "upsert"},
        # dlt writes into these: each column has a mapping of its own.
        columns={name: {**hints, "nullable": False} for name, hints in _TYPES.items()},
    )
    pipeline = dlt.pipeline(
        "bench",
        destination=dlt.destinations.postgres(credentials=os.environ["BENCH_TARGET"]),
        dataset_name="public",
        pipelines_dir=folder,
    )
    pipeline.run(resource, loader_file_format=file_format)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
