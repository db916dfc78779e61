"""The peer that people write themselves: PyMongo, COPY into a temporary table, one statement with ON CONFLICT.

It is a good script: it reads only the fields it needs, streams, and touches only rows that differ. Run as a program.
"""

from __future__ import annotations

import os
from typing import Any, Final

import psycopg
from pymongo import MongoClient

_FIELDS: Final = ("_id", "title", "price", "image", "sellerId", "quantity")
_BATCH: Final = 5_000

# stage_table, copy_staged: the whole catalogue beside the table.
_STAGE_TABLE = """
CREATE TEMPORARY TABLE staged (
    id text, title text, price integer, image text, "sellerId" text, quantity integer
) ON COMMIT DROP
"""
_COPY_STAGED = 'COPY staged (id, title, price, image, "sellerId", quantity) FROM STDIN'

# upsert: insert what is missing, update what differs, leave the rest untouched.
_UPSERT = """
INSERT INTO product AS target (id, title, price, image, "sellerId", quantity)
SELECT id, title, price, image, "sellerId", quantity FROM staged
ON CONFLICT (id) DO UPDATE SET
    title = excluded.title, price = excluded.price, image = excluded.image,
    "sellerId" = excluded."sellerId", quantity = excluded.quantity
WHERE (target.title, target.price, target.image, target."sellerId", target.quantity)
    IS DISTINCT FROM (excluded.title, excluded.price, excluded.image, excluded."sellerId", excluded.quantity)
"""


def main() -> None:
    with (
        MongoClient[dict[str, Any]](os.environ["BENCH_SOURCE"]) as client,
        psycopg.connect(os.environ["BENCH_TARGET"]) as connection,
        connection.cursor() as cursor,
    ):
        documents = client.get_default_database()["products"].find({}, dict.fromkeys(_FIELDS, 1), batch_size=_BATCH)
        cursor.execute(_STAGE_TABLE)
        with cursor.copy(_COPY_STAGED) as copy:
            for document in documents:
                copy.write_row(
                    (
                        str(document["_id"]),
                        document["title"],
                        document["price"],
                        document["image"],
                        str(document["sellerId"]),
                        document["quantity"],
                    )
                )
        cursor.execute(_UPSERT)


if __name__ == "__main__":
    main()
