"""Reads the product service's MongoDB. It never writes to it.

The only package that imports pymongo: what leaves it are plain values, Arrow batches and the errors of
`product_sync.core.errors`.
"""

from __future__ import annotations

from product_sync.adapters.mongodb.address import parse, without_credentials
from product_sync.adapters.mongodb.collection import require_readable
from product_sync.adapters.mongodb.connection import check_address, connect
from product_sync.adapters.mongodb.inspect import SourceHealth, inspect
from product_sync.adapters.mongodb.replication import Replication, replication
from product_sync.adapters.mongodb.source import MongoSource

__all__ = [
    "MongoSource",
    "Replication",
    "SourceHealth",
    "check_address",
    "connect",
    "inspect",
    "parse",
    "replication",
    "require_readable",
    "without_credentials",
]
