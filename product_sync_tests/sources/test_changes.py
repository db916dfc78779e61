"""The change stream of a real MongoDB: every change is named once, and a stream that cannot go on says why."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from uuid import UUID

import pytest
from bson import decode, encode
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, ReplaceOne
from pymongo.database import Database
from pymongo.errors import OperationFailure
from pymongo.monitoring import CommandListener, CommandStartedEvent

from product_sync.conversion.ids import source_id
from product_sync.errors import ChangesLost
from product_sync.schema.changes import ChangePosition, Changes
from product_sync.schema.records import IdType, Reason, SourceId
from product_sync.sources.mongodb import MongoChanges, change_stream
from product_sync.sources.mongodb import changes as changes_module
from product_sync.sources.mongodb.source import MongoSource
from product_sync_tests.row_schemas import document, element, string
from product_sync_tests.source_contract import product, product_row_schema

MANY = 100_000
#: Bytes of the largest document that MongoDB stores.
MAX_BSON = 16 * 1024 * 1024
Shop = Database[dict[str, Any]]
#: Change feeds whose streams are open at a position.
KEPT: dict[ChangePosition, MongoChanges] = {}


@pytest.fixture
def shop(mongodb_url: str) -> Iterator[Shop]:
    with MongoClient[dict[str, Any]](mongodb_url, uuidRepresentation="standard") as client:
        database = client.get_default_database()
        database.products.insert_many([product("a"), product("b")])
        yield database


def source(shop: Shop) -> MongoSource:
    return MongoSource(shop, product_row_schema())


def feed(shop: Shop) -> MongoChanges:
    return MongoChanges(shop, "products", stays_open=True)


def changes(shop: Shop, since: ChangePosition, *, max_events: int = MANY, within_s: float = 60.0) -> Changes:
    """What changed after ``since``. The stream that is open there is asked first, as the watch does."""
    with closing(KEPT.pop(since) if since in KEPT else feed(shop)) as reading:
        return reading.changes(since, max_events=max_events, within_s=within_s)


def position(shop: Shop) -> ChangePosition:
    """The present. A stream stays open at it."""
    kept = feed(shop)
    at = kept.changes(kept.position(), max_events=MANY, within_s=60.0).position
    KEPT[at] = kept
    return at


def string_ids(*texts: str) -> set[SourceId]:
    return {SourceId(IdType.STRING, text) for text in texts}


def test_inserts_replacements_updates_and_deletes_are_named_once_each(shop: Shop) -> None:
    before = position(shop)
    shop.products.insert_one(product("new"))
    shop.products.replace_one({"_id": "a"}, product("a", price=1))
    shop.products.update_one({"_id": "a"}, {"$set": {"price": 2}})
    shop.products.delete_one({"_id": "b"})
    found = changes(shop, before)
    assert set(found.ids) == string_ids("new", "a", "b")
    assert (found.events, found.at_end) == (4, True)
    assert before.time <= max(found.ids.values()) <= found.position.time <= found.now
    assert found.now.seconds <= found.clock <= time.time()
    again = changes(shop, found.position)
    assert (again.ids, again.events) == ({}, 0)


def test_a_document_that_the_driver_does_not_decode_is_no_obstacle(shop: Shop) -> None:
    shop.products.delete_many({})
    shop.products.insert_one(RawBSONDocument(document(element(0x02, b"_id", string(b"caf\xe9")))))
    before = position(shop)
    shop.products.insert_one(product("new"))
    assert set(changes(shop, before).ids) == string_ids("new")


def test_many_changes_of_other_collections_move_the_position_and_hide_nothing(shop: Shop, mongodb_url: str) -> None:
    """Also if the oplog takes longer than the connection's time limit, or than the reading may take."""
    before = position(shop)
    numbers: list[dict[str, Any]] = [
        {"$set": {"n": {"$range": [0, 100_000]}}},
        {"$unwind": "$n"},
        {"$project": {"_id": "$n"}},
    ]
    shop.products.aggregate([{"$match": {"_id": "a"}}, *numbers, {"$out": "other"}])
    KEPT.pop(before).close()
    with MongoClient[dict[str, Any]](mongodb_url, socketTimeoutMS=100) as impatient:
        found = changes(impatient.get_default_database(), before)
        assert (found.events, found.at_end) == (0, True)
        assert found.position.token > before.token
        assert found.position.time > before.time
        bounded = changes(impatient.get_default_database(), before, within_s=0.05)
        assert (bounded.events, bounded.at_end, bounded.position) == (0, False, before)
    shop.products.update_one({"_id": "a"}, {"$set": {"price": 2}})
    assert set(changes(shop, before).ids) == string_ids("a")


def test_a_bounded_reading_goes_on_where_it_ended_also_within_a_transaction(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = position(shop)
    with shop.client.start_session() as session, session.start_transaction():
        shop.products.insert_many([product(f"n{n}") for n in range(10_000)], session=session)
    seen: set[SourceId] = set()
    at, rounds, at_end = before, 0, False
    while not at_end:
        found = changes(shop, at, max_events=4_000)
        assert at.time <= found.position.time
        seen |= set(found.ids)
        at, at_end, rounds = found.position, found.at_end, rounds + 1
    assert rounds == 3
    assert seen == string_ids(*(f"n{n}" for n in range(10_000)))
    monkeypatch.setattr(changes_module, "_BATCH", 3_000)
    assert set(changes(shop, before).ids) == seen, "in several replies of the server"


def test_an_update_whose_event_with_the_document_would_exceed_16_mb_is_read(shop: Shop) -> None:
    room = MAX_BSON - len(encode(product("wide", text="")))
    shop.products.insert_one(product("wide", text="x" * room))
    before = position(shop)
    shop.products.update_one({"_id": "wide"}, {"$set": {"text": "y" * room}})
    resumed = decode(bytes.fromhex(before.token.partition(":")[0]))
    with (
        pytest.raises(OperationFailure, match="BSONObj size"),
        shop.products.watch(resume_after=resumed, full_document="updateLookup") as whole,
    ):
        whole.try_next()
    assert set(changes(shop, before).ids) == string_ids("wide")


def test_an_event_of_an_unknown_kind_that_names_a_document_is_a_change(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server gives its events another name, as a later version may."""
    renamed = {"$addFields": {"operationType": "erase"}}
    monkeypatch.setattr(change_stream, "_PIPELINE", [renamed, *change_stream._PIPELINE])
    before = position(shop)
    shop.products.delete_one({"_id": "a"})
    assert set(changes(shop, before).ids) == string_ids("a")


def test_an_event_that_names_no_document_ends_the_following_and_is_named(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    nameless = [{"$addFields": {"operationType": "createIndexes"}}, {"$unset": "documentKey"}]
    monkeypatch.setattr(change_stream, "_PIPELINE", [*change_stream._PIPELINE, *nameless])
    before = position(shop)
    shop.products.update_one({"_id": "a"}, {"$set": {"price": 2}})
    with pytest.raises(ChangesLost) as lost:
        changes(shop, before)
    assert (lost.value.reason, "'createIndexes'" in lost.value.message) == ("unknown_event", True)
    assert "full sync" in lost.value.hint


@pytest.mark.parametrize(
    "bson_id",
    [
        ObjectId("6b0a5e098b00ebd7a66c4e9f"),
        "text", "", 5, Int64(2**40), UUID(int=7), 2.5, float("nan"), Decimal128("1.5"), None, True, b"\x01",
        dt.datetime(2020, 1, 2, tzinfo=dt.UTC), {"shop": 1, "sku": "x"},
    ],
    ids=repr,
)  # fmt: skip
def test_an_id_of_any_type_is_named_and_its_document_can_be_read(shop: Shop, bson_id: Any) -> None:
    before = position(shop)
    shop.products.insert_one(product(bson_id))
    (changed,) = changes(shop, before).ids
    batch = source(shop).fetch([changed, SourceId(IdType.STRING, "a")])
    supported = source_id(bson_id)
    assert changed == supported or (supported is None and changed.type == IdType.OTHER)
    assert batch.documents == 2
    assert [each.defects[0].reason for each in batch.rejects] == [Reason.UNSUPPORTED_ID] * (supported is None)


def _replace_by_out(shop: Shop) -> None:
    shop.products.aggregate([{"$match": {"_id": "a"}}, {"$out": "products"}])


def _recreate(shop: Shop) -> None:
    shop.products.drop()
    shop.products.insert_one(product("b"))


def _rename_and_back(shop: Shop) -> None:
    shop.products.rename("elsewhere")
    shop.elsewhere.rename("products")


def _import_over(shop: Shop) -> None:
    shop.staged.insert_one(product("b"))
    shop.staged.rename("products", dropTarget=True)


@pytest.mark.parametrize(
    ("happening", "reasons"),
    [
        (_recreate, {"recreated"}),
        (_replace_by_out, {"recreated"}),
        (_import_over, {"recreated"}),
        (_rename_and_back, {"renamed"}),
    ],
)
def test_another_collection_of_the_name_is_never_taken_for_the_first(
    shop: Shop, happening: Callable[[Shop], None], reasons: set[str]
) -> None:
    before = position(shop)
    happening(shop)
    with pytest.raises(ChangesLost) as lost:
        changes(shop, before)
    assert lost.value.reason in reasons
    assert "full sync" in lost.value.hint
    at = position(shop)
    shop.products.replace_one({"_id": "b"}, product("b", price=7), upsert=True)
    assert set(changes(shop, at).ids) == string_ids("b")


def test_a_full_read_after_the_position_and_the_changes_after_it_miss_nothing(shop: Shop) -> None:
    reading = source(shop)
    shop.products.insert_one(product("before"))
    at = position(shop)
    reading.read_after(at)
    pages = reading.snapshot()
    first = {row["id"] for row in next(pages).rows.to_pylist()}
    shop.products.bulk_write([ReplaceOne({"_id": name}, product(name, price=9), upsert=True) for name in ("a", "late")])
    pages.close()
    assert "before" in first
    assert set(changes(shop, at).ids) == string_ids("a", "late")


def test_a_broken_token_is_lost_and_not_taken_for_the_present(shop: Shop) -> None:
    at = position(shop)
    with pytest.raises(ChangesLost) as lost:
        changes(shop, ChangePosition(at.token.replace("3832", "3833", 1), at.time, at.collection))
    assert lost.value.reason == "token_invalid", lost.value.message


class _Sessions(CommandListener):
    """Notes the session of each stream that is opened."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name == "aggregate":
            self.seen.append(event.command["lsid"]["id"])

    def succeeded(self, _: object) -> None: ...
    def failed(self, _: object) -> None: ...


def test_a_stream_that_cannot_be_opened_leaves_no_session_behind(shop: Shop, mongodb_url: str) -> None:
    """The server keeps a session for half an hour, but one that was given back is used again, and ended with the
    connection."""
    at, sessions = position(shop), _Sessions()
    broken = ChangePosition(at.token.replace("3832", "3833", 1), at.time, at.collection)
    with MongoClient[dict[str, Any]](mongodb_url, event_listeners=[sessions]) as client:
        for _ in range(3):
            with pytest.raises(ChangesLost):
                changes(client.get_default_database(), broken)
    assert len(sessions.seen) == 3
    assert len(set(sessions.seen)) == 1


def test_an_event_that_is_too_large_is_lost_with_its_reason(shop: Shop) -> None:
    at = position(shop)
    shop.products.insert_one({"_id": "x" * 5_600_000})
    with pytest.raises(ChangesLost) as lost:
        changes(shop, at)
    assert lost.value.reason == "event_too_large", lost.value.message
