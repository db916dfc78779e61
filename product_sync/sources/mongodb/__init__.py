"""Reads the source's MongoDB, and never writes to it.

Only this package imports pymongo. It returns plain values and Arrow batches and raises the errors of
`product_sync.errors`.
"""

from __future__ import annotations

from product_sync.sources.mongodb.changes import MongoChanges
from product_sync.sources.mongodb.client import check_address, connect
from product_sync.sources.mongodb.collection import require_readable
from product_sync.sources.mongodb.health import Replication, SourceHealth, inspect, replication
from product_sync.sources.mongodb.source import MongoSource
from product_sync.sources.mongodb.url import parse, without_credentials

__all__ = [
    "MongoChanges",
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
