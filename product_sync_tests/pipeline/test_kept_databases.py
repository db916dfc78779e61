"""The connection of the watch: it is opened once, costs nearly nothing, and is made anew after an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from pymongo import MongoClient

from product_sync.errors import Unreachable
from product_sync.pipeline import kept_databases
from product_sync.pipeline.databases import Databases
from product_sync.pipeline.kept_databases import KeptDatabases
from product_sync.pipeline.watch import Look, look
from product_sync.schema.definition import load_definition
from product_sync.sources.mongodb import MongoChanges
from product_sync.state import change_position
from product_sync.state.store import StateFolder
from product_sync_tests.pipeline.test_sync_run import databases_of
from product_sync_tests.pipeline.test_watch import prove
from product_sync_tests.shop import Shop, product, shop

__all__ = ["shop"]


class Watcher:
    """Looks at the shop as the sensor does."""

    def __init__(self, shop: Shop) -> None:
        shop.put(product("a"))
        self._folder: StateFolder = prove(shop)
        self._kept = KeptDatabases(load_definition())

    def look(self) -> Look:
        with self._kept.use(os.environ) as databases:
            return look(databases, self._folder, settle_s=0.0)

    def connection(self) -> object:
        with self._kept.use(os.environ) as databases, databases.open_source():
            return databases._database


@contextmanager
def traffic(shop: Shop) -> Iterator[list[int]]:
    """What MongoDB sends while the block runs: bytes, replies, new connections."""
    with MongoClient[dict[str, Any]](shop.mongodb_url) as client:

        def now() -> list[int]:
            status = client.admin.command("serverStatus")
            network, connections = status["network"], status["connections"]
            return [int(network["bytesOut"]), int(network["numRequests"]), int(connections["totalCreated"])]

        before, began, found = now(), now(), [0, 0, 0]
        yield found
        ended = now()
        # Less the question for these numbers itself.
        found[:] = [last - first - (first - zero) for last, first, zero in zip(ended, began, before, strict=True)]


def open_cursors(shop: Shop) -> int:
    with MongoClient[dict[str, Any]](shop.mongodb_url) as client:
        return int(client.admin.command("serverStatus")["metrics"]["cursor"]["open"]["total"])


def test_a_look_at_nothing_new_is_two_replies_of_mongodb_and_none_of_postgresql(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher, looks = Watcher(shop), 20
    first = watcher.look()
    monkeypatch.delattr(Databases, "reader")
    monkeypatch.setattr(psycopg, "connect", lambda *_, **__: pytest.fail("PostgreSQL was asked"))
    with MongoClient[dict[str, Any]](shop.mongodb_url) as client:
        client.get_default_database().other.insert_one({})
    with traffic(shop) as sent:
        found = [watcher.look() for _ in range(looks)]
    size, replies, connections = sent
    assert {each.events for each in found} == {0}
    assert max(each.lag_s for each in found) <= 1.0
    assert first.stored is not None
    assert found[0].stored is not None
    assert found[0].stored.position.time > first.stored.position.time, "it moves on"
    # Other clients of this server may be at work.
    assert 0 < replies / looks < 2.5
    assert size / looks < 650
    assert connections <= 1


def test_a_kept_stream_misses_nothing_and_gives_way_to_the_position_that_a_run_has_stored(shop: Shop) -> None:
    cursors = open_cursors(shop)
    watcher = Watcher(shop)
    watcher.look()
    assert watcher.look().events == 0
    shop.put(product("a", price=7))
    assert (watcher.look().events, watcher.look().events) == (1, 0)
    before = change_position.read_position(watcher._folder)
    assert before is not None
    with MongoClient[dict[str, Any]](shop.mongodb_url) as client:
        client.get_default_database().other.insert_one({})
    elsewhere = look(databases_of(shop), watcher._folder, settle_s=0.0).stored
    assert elsewhere is not None
    assert elsewhere.position != before.position
    shop.remove("a")
    assert watcher.look().events == 1
    assert open_cursors(shop) <= cursors + 1


def test_an_error_and_ten_minutes_end_the_connection(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = Watcher(shop)
    first = watcher.connection()
    assert watcher.connection() is first
    with pytest.raises(Unreachable), watcher._kept.use(os.environ):
        raise Unreachable("the server is down")
    second = watcher.connection()
    assert second is not first
    monkeypatch.setattr(kept_databases, "_KEEP_S", -1.0)
    with pytest.raises(Unreachable), watcher._kept.use(os.environ):
        raise Unreachable("the server is down")
    third = watcher.connection()
    assert watcher.connection() is not third
    assert watcher.look().events == 0


def test_a_connection_whose_end_is_broken_off_is_not_used_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = Watcher(shop)
    watcher.look()

    def broken_off(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(MongoChanges, "close", broken_off)
        with pytest.raises(KeyboardInterrupt), watcher._kept.use(os.environ):
            raise Unreachable("the server is down")
    assert watcher.look().events == 0


def test_another_address_is_another_connection(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = Watcher(shop)
    first = watcher.connection()
    monkeypatch.setenv("PRODUCT_SERVICE_MONGODB_URL", f"{shop.mongodb_url}&appname=another")
    assert watcher.connection() is not first
