"""`MongoSource` on real servers: nothing is lost and nothing is read twice, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp, encode
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from pymongo import WriteConcern
from pymongo.database import Database

from product_sync.errors import ConfigurationError, SourceMissing, SourceReadError
from product_sync.runtime.backoff import RetryPolicy
from product_sync.schema.addresses import SourceAddress
from product_sync.schema.records import IdType, Reason, SourceId
from product_sync.sources.mongodb import MongoSource, connect
from product_sync_tests.fakes import FakeTime
from product_sync_tests.source_contract import (
    OBJECT_ID,
    SELLER,
    Documents,
    SourceContract,
    SourceOf,
    id_rows,
    ids_of,
    product,
    product_row_schema,
    rows_of,
)
from product_sync_tests.sources.private_mongod import PrivateMongod, private_mongod

Shop = Database[dict[str, Any]]

#: One of every type that the server takes as an _id, and values at the edges of those that are ordered.
IDS_OF_EVERY_TYPE: list[object] = [
    MinKey(),
    None,
    float("nan"),
    float("-inf"),
    -0.5,
    0,
    1,
    Int64(2),
    2.5,
    Decimal128("3.10"),
    Int64(2**53 + 1),
    float("inf"),
    "",
    "A",
    "b",
    "é",
    "😀",
    {},
    {"a": 1},
    {"a": {"b": [1, 2]}},
    DBRef("sellers", 1),
    Binary(b"", 0),
    Binary(b"x" * 16, 3),
    Binary(UUID(int=7).bytes, 4),
    Binary(b"x", 128),
    ObjectId("000000000000000000000000"),
    ObjectId("ffffffffffffffffffffffff"),
    False,
    True,
    DatetimeMS(-(2**62)),
    datetime(2020, 1, 1, tzinfo=UTC),
    DatetimeMS(2**62),
    Timestamp(1, 2),
    Code("f()"),
    Code("g()", {"x": 1}),
    MaxKey(),
]


@pytest.fixture
def shop(mongodb_url: str) -> Iterator[Shop]:
    with connect(SourceAddress(mongodb_url)) as database:
        yield database


def source(shop: Shop, **options: Any) -> MongoSource:
    return MongoSource(shop, product_row_schema(), **options)


class TestMongoSourceKeepsTheContract(SourceContract):
    @pytest.fixture
    def source_of(self, shop: Shop) -> SourceOf:
        def make(documents: Documents | None) -> MongoSource:
            if documents is not None:
                shop.create_collection("products")
            for document in documents or ():
                values = dict(document)
                if isinstance(values["_id"], UUID):
                    values["_id"] = Binary.from_uuid(values["_id"])
                shop["products"].insert_one(values)
            return source(shop)

        return make


class TestPages:
    @pytest.mark.parametrize("page_rows", [1, 2, 7])
    @pytest.mark.parametrize("collation", [None, {"locale": "en", "strength": 2}], ids=["simple", "ignoring case"])
    def test_ids_of_every_type_are_read_exactly_once(
        self, shop: Shop, page_rows: int, collation: dict[str, Any] | None
    ) -> None:
        shop.command({"create": "products"} | ({"collation": collation} if collation else {}))
        products = shop["products"]
        for bson_id in IDS_OF_EVERY_TYPE:
            products.insert_one(product(bson_id))
        not_utf8 = encode(product("QQQ")).replace(b"QQQ", b"\xff\xfeQ")
        key_twice = encode(product({"aa": 1, "ab": 2})).replace(b"ab", b"aa")
        products.insert_one(RawBSONDocument(not_utf8))
        products.insert_one(RawBSONDocument(key_twice))

        batches = list(source(shop, page_rows=page_rows).snapshot())

        assert sum(batch.documents for batch in batches) == len(IDS_OF_EVERY_TYPE) + 2
        keys = [reject.source_key for batch in batches for reject in batch.rejects]
        assert len(set(ids_of(batches))) == sum(batch.rows.num_rows for batch in batches) == 12
        # The key that is there twice cannot be told from a document that has it once.
        assert len(set(keys)) == len(keys) == len(IDS_OF_EVERY_TYPE) + 2 - 12
        assert max(batch.documents for batch in batches) == page_rows

    @pytest.mark.parametrize("id_of", [int, str, float, lambda number: ObjectId(f"{number:024x}")])
    def test_a_page_reads_only_its_own_documents(self, shop: Shop, id_of: Callable[[int], Any]) -> None:
        shop["products"].insert_many([product(id_of(number)) for number in range(450)])
        shop.command("profile", 2)

        list(source(shop, page_rows=150).snapshot())

        shop.command("profile", 0)
        finds = list(shop["system.profile"].find({"command.find": "products"}))
        # After the last of a type comes the question for other types.
        at_the_end = [0] if id_of is float else [0, 0]
        assert [find["docsExamined"] for find in finds] == [150, 150, 150, *at_the_end]
        assert [find["keysExamined"] for find in finds] == [150, 150, 150, *at_the_end]
        assert not any(find.get("cursorid") for find in finds), "no cursor may be left on the server"

    def test_only_mapped_fields_travel(self, shop: Shop) -> None:
        shop["products"].insert_one(product("a", description="x" * 1_000_000))
        shop.command("profile", 2)

        list(source(shop).snapshot())

        shop.command("profile", 0)
        assert shop["system.profile"].find_one({"command.find": "products"})["responseLength"] < 1_000  # type: ignore[index]

    @pytest.mark.parametrize("repeated", ["title", "price", "quantity"])
    @pytest.mark.parametrize("place", ["first", "last"])
    def test_a_field_that_comes_twice_is_quarantined_and_hides_no_other(
        self, shop: Shop, repeated: str, place: str
    ) -> None:
        """The server stops reading a document when it has found as many elements as were asked for."""
        whole, more = product("a", description="between"), encode({repeated: 77})[4:-1]
        elements = encode({"_id": whole.pop("_id")})[4:-1]
        elements += more + encode(whole)[4:-1] if place == "first" else encode(whole)[4:-1] + more
        shop["products"].insert_one(RawBSONDocument(len(elements + b"12345").to_bytes(4, "little") + elements + b"\0"))
        (batch,) = source(shop).snapshot()

        assert [(defect.column, defect.reason) for reject in batch.rejects for defect in reject.defects][:1] == [
            (repeated, Reason.REPEATED_FIELD)
        ]
        assert batch.rows.num_rows == 0

    def test_a_page_ends_at_its_bytes_also_where_one_document_has_more(self, shop: Shop) -> None:
        sizes = [15_000_000, 9_000_000, 5_000_000, 2_000_000, 2_000_000, 100, 15_900_000, 100]
        shop.create_collection("products")
        for number, size in enumerate(sizes):
            shop["products"].insert_one(product(number, title="x" * size))

        batches = list(source(shop).snapshot())

        assert ids_of(batches) == [SourceId(IdType.INT, str(number)) for number in range(len(sizes))]
        assert all(
            batch.documents == 1 or sum(len(title) for title in batch.rows["title"].to_pylist()) <= 8 * 1024 * 1024
            for batch in batches
        )
        assert max(batch.documents for batch in batches) > 1

    def test_documents_that_come_and_go_do_not_lose_others(self, shop: Shop) -> None:
        products = shop["products"]
        products.insert_many([product(number) for number in range(0, 100, 2)])
        pages = source(shop, page_rows=5).snapshot()

        seen = [next(pages), next(pages)]  # the third page may be on its way already
        products.delete_one({"_id": 18})  # the last one of the second
        products.delete_many({"_id": {"$in": [30, 32, 50]}})
        products.insert_many([product(1), product(31), product("text"), product(ObjectId())])
        products.update_many({}, {"$set": {"price": 1, "image": "y" * 5_000}})
        seen += pages

        read = [source_id.text for source_id in ids_of(seen) if source_id.type == IdType.INT]
        assert read == [str(number) for number in [*range(0, 30, 2), 31, *range(34, 50, 2), *range(52, 100, 2)]]
        assert len(ids_of(seen)) == len(read) + 2

    def test_a_clustered_collection_is_read_whole(self, shop: Shop) -> None:
        shop.command({"create": "products", "clusteredIndex": {"key": {"_id": 1}, "unique": True}})
        shop["products"].insert_many([product(number) for number in (3, 1, 2)])

        assert [row["id"] for row in rows_of(list(source(shop, page_rows=1).snapshot()))] == ["1", "2", "3"]
        assert source(shop).existing([SourceId(IdType.INT, "3")]) == {SourceId(IdType.INT, "3")}
        shop["products"].insert_one(product(OBJECT_ID))
        assert source(shop).all_exist(id_rows([SourceId(IdType.OBJECT_ID, str(OBJECT_ID))]))


class TestById:
    def test_a_lookup_of_ids_reads_the_index_only(self, shop: Shop) -> None:
        shop["products"].insert_many([product(number) for number in range(10)])
        shop["products"].create_index([("_id", 1), ("title", 1)])
        asked = {SourceId(IdType.INT, str(number)) for number in range(5)}
        shop.command("profile", 2)

        assert source(shop).existing(list(asked)) == asked

        shop.command("profile", 0)
        (find,) = shop["system.profile"].find({"command.find": "products"})
        assert (find["docsExamined"], find["planSummary"]) == (0, "IXSCAN { _id: 1 }")

    def test_more_ids_than_one_query_holds_are_all_found(self, shop: Shop) -> None:
        shop["products"].insert_many([product(number) for number in range(2_500)])
        asked = [SourceId(IdType.INT, str(number)) for number in range(2_600)]

        assert source(shop).fetch(asked).rows.num_rows == 2_500
        assert source(shop).existing(asked) == set(asked[:2_500])

    def test_object_ids_are_read_in_blocks_of_ten_thousand(self, shop: Shop) -> None:
        there = [ObjectId() for _ in range(12_345)]
        shop["products"].insert_many([product(each, price=price) for price, each in enumerate(there)])
        asked = [SourceId(IdType.OBJECT_ID, str(each)) for each in there]

        with patch.object(MongoSource, "documents", side_effect=AssertionError("one by one")):
            found = source(shop).fetch(asked)

        assert [row["price"] for row in rows_of([found])] == list(range(12_345))
        assert found.documents == 12_345

    def test_object_ids_that_are_gone_cannot_be_copied_or_are_too_large_together_hide_no_other(
        self, shop: Shop
    ) -> None:
        sizes = [9_000_000, 9_000_000, 100, 15_000_000, 100]
        there = [ObjectId() for _ in sizes]
        products = [product(each, title="x" * size) for each, size in zip(there, sizes, strict=True)]
        shop["products"].insert_many([*products[:4], {**products[4], "price": "much"}])
        asked = [SourceId(IdType.OBJECT_ID, str(each)) for each in there]
        gone = SourceId(IdType.OBJECT_ID, str(ObjectId()))

        for ids in (asked, [asked[0], gone, *asked[1:]]):
            found = source(shop).fetch(ids)
            assert [len(row["title"]) for row in rows_of([found])] == sizes[:4]
            assert [reject.source_id for reject in found.rejects] == asked[4:]
            assert found.documents == 5
        assert source(shop).fetch([gone]).documents == 0

    def test_that_all_object_ids_exist_is_told_by_a_count_in_the_index(self, shop: Shop) -> None:
        there = [ObjectId() for _ in range(12_345)]
        shop["products"].insert_many([{"_id": each} for each in there])
        asked = id_rows([SourceId(IdType.OBJECT_ID, str(each)) for each in there])
        shop.command("profile", 2)

        assert source(shop).all_exist(asked)
        assert source(shop).all_exist(asked.slice(9_990, 20))

        shop.command("profile", 0)
        counts = list(shop["system.profile"].find({"command.count": "products"}))
        assert {(count["docsExamined"], count["planSummary"]) for count in counts} == {(0, "IXSCAN { _id: 1 }")}
        shop["products"].delete_one({"_id": there[9_999]})
        assert not source(shop).all_exist(asked)
        assert not source(shop).all_exist(asked.slice(9_990, 20))

    @pytest.mark.parametrize("bson_id", [5.0, Decimal128("5.0")])
    def test_an_id_that_turned_into_an_equal_number_still_exists_but_cannot_be_copied(
        self, shop: Shop, bson_id: object
    ) -> None:
        shop["products"].insert_one(product(bson_id))
        asked = SourceId(IdType.LONG, "5")

        assert source(shop).existing([asked]) == {asked}
        assert [reject.source_id for reject in source(shop).fetch([asked]).rejects] == [None]

    def test_an_id_of_another_case_is_another_product(self, shop: Shop) -> None:
        shop.create_collection("products", collation={"locale": "en", "strength": 2}).insert_one(product("abc"))
        asked = SourceId(IdType.STRING, "ABC")

        assert source(shop).existing([asked]) == set()
        assert source(shop).fetch([asked]).documents == 0

    def test_values_are_those_of_now(self, shop: Shop) -> None:
        shop["products"].insert_one(product("a", price=1))
        before = source(shop)
        list(before.snapshot())
        shop["products"].update_one({"_id": "a"}, {"$set": {"price": 2}})

        assert [row["price"] for row in rows_of([before.fetch([SourceId(IdType.STRING, "a")])])] == [2]


def test_a_snapshot_reads_what_a_majority_holds_and_a_lookup_what_the_primary_holds_now(mongodb_url: str) -> None:
    with connect(SourceAddress(mongodb_url + "&readPreference=secondaryPreferred")) as shop:
        shop["products"].insert_one(product("a"))
        shop.command("profile", 2)

        list(source(shop).snapshot())
        source(shop).fetch([SourceId(IdType.STRING, "a")])
        source(shop).existing([SourceId(IdType.STRING, "a")])

        shop.command("profile", 0)
        finds = [entry["command"] for entry in shop["system.profile"].find({"command.find": "products"})]
    assert [(find["readConcern"]["level"], find.get("$readPreference", {}).get("mode")) for find in finds] == [
        ("majority", "secondaryPreferred"),
        ("majority", "secondaryPreferred"),
        ("majority", "secondaryPreferred"),
        ("local", None),
        ("local", None),
    ]


class TestWhatIsThere:
    def test_documents_are_counted_one_by_one(self, shop: Shop) -> None:
        shop["products"].insert_many([product(number) for number in range(7)])

        assert source(shop).count() == 7

    def test_a_missing_collection_has_no_count(self, shop: Shop) -> None:
        with pytest.raises(SourceMissing):
            source(shop).count()

    def test_a_missing_collection_is_named_with_those_that_exist(self, shop: Shop) -> None:
        for number in range(12):
            shop[f"collection{number:02}"].insert_one({})

        with pytest.raises(SourceMissing) as caught:
            list(source(shop).snapshot())

        assert "'products'" in caught.value.message
        assert "collection00, " in caught.value.message
        assert "collection09, …" in caught.value.message
        assert caught.value.exit_status == 2

    def test_a_missing_database_is_named_with_those_that_exist(self, shop: Shop) -> None:
        with pytest.raises(SourceMissing, match=f"'{shop.name}'.*admin"):
            list(source(shop).snapshot())

    def test_a_collection_dropped_in_mid_read_does_not_look_complete(self, shop: Shop) -> None:
        shop["products"].insert_many([product(number) for number in range(10)])
        pages = source(shop, page_rows=5).snapshot()
        next(pages)
        shop["products"].drop()

        with pytest.raises(SourceMissing):
            list(pages)

    def test_a_collection_replaced_in_mid_read_does_not_look_complete(self, shop: Shop) -> None:
        shop["products"].insert_many([product(number) for number in range(10)])
        pages = source(shop, page_rows=5).snapshot()
        next(pages)
        shop["new"].insert_many([product(number) for number in range(6)])
        shop["new"].rename("products", dropTarget=True)

        with pytest.raises(SourceReadError, match="replaced"):
            list(pages)

    def test_a_dropped_collection_does_not_look_as_if_its_products_were_deleted(self, shop: Shop) -> None:
        shop["products"].insert_one(product("a"))
        reading = source(shop)
        asked = [SourceId(IdType.STRING, "a")]
        assert reading.existing(asked) == set(asked)
        shop["products"].drop()

        with pytest.raises(SourceMissing):
            reading.existing(asked)


class TestFilter:
    """Every read returns the documents that match the filter, and no others."""

    @staticmethod
    def source(shop: Shop, **source_filter: Any) -> MongoSource:
        return MongoSource(shop, replace(product_row_schema(), filter=source_filter), page_rows=2)

    def test_it_limits_every_read(self, shop: Shop) -> None:
        active, sold = [ObjectId() for _ in range(5)], ObjectId()
        shop["products"].insert_many([product(bson_id, status="active") for bson_id in active])
        shop["products"].insert_one(product("a", status="active"))
        shop["products"].insert_many([product(sold, status="sold"), product("b")])
        found = self.source(shop, status="active")
        object_ids = [SourceId(IdType.OBJECT_ID, str(bson_id)) for bson_id in active]
        out = SourceId(IdType.OBJECT_ID, str(sold))
        text, text_out = SourceId(IdType.STRING, "a"), SourceId(IdType.STRING, "b")

        assert set(ids_of(list(found.snapshot()))) == {*object_ids, text}
        assert found.count() == 6
        assert set(ids_of([found.fetch([*object_ids, out])])) == set(object_ids)
        assert ids_of([found.fetch([text, text_out, out])]) == [text]
        assert found.existing([*object_ids, out, text, text_out]) == {*object_ids, text}
        assert found.all_exist(id_rows(object_ids))
        assert not found.all_exist(id_rows([*object_ids, out]))
        assert found.document("a") is not None
        assert found.document("b") is None

    def test_its_dates_and_object_ids_are_extended_json(self, shop: Shop) -> None:
        shop["products"].insert_many(
            [product(year, since=datetime(year, 1, 1, tzinfo=UTC)) for year in range(2020, 2024)]
        )
        since = {"$gte": {"$date": "2021-01-01T00:00:00Z"}, "$lt": date(2023, 1, 1)}
        seller = {"$in": [{"$oid": str(SELLER)}]}
        found = self.source(shop, since=since, sellerId=seller)
        assert [source_id.text for source_id in ids_of(list(found.snapshot()))] == ["2021", "2022"]

    @pytest.mark.parametrize("refused", [{"$nope": 1}, {"price": {"$gt": 1, "$nope": 2}}, {"$text": {"$search": "x"}}])
    def test_one_that_the_server_refuses_is_an_error_before_the_first_page(
        self, shop: Shop, refused: dict[str, Any]
    ) -> None:
        shop["products"].insert_one(product("a"))
        with pytest.raises(ConfigurationError, match="MongoDB refuses the filter of the collection 'products'"):
            next(self.source(shop, **refused).snapshot())

    def test_a_page_reads_only_matching_documents_where_an_index_has_the_fields_and_then_the_id(
        self, shop: Shop
    ) -> None:
        shop["products"].insert_many(
            [product(number, status="sold" if number % 10 else "active") for number in range(90)]
        )
        shop["products"].create_index([("status", 1), ("price", 1), ("_id", 1)])
        shop["products"].create_index([("status", 1), ("_id", 1)])
        found = self.source(shop, status="active", price={"$gt": 0})
        shop.command("profile", 2)
        assert [source_id.text for source_id in ids_of(list(found.snapshot()))] == [str(n) for n in range(0, 90, 10)]
        shop.command("profile", 0)
        reads = list(shop["system.profile"].find({"command.find": "products"}))
        assert len(reads) >= 5
        assert max(read["docsExamined"] for read in reads) <= 3
        assert not any(read.get("hasSortStage") for read in reads)

    @pytest.mark.parametrize(
        ("source_filter", "key", "is_used"),
        [
            ({"status": {"$in": ["new", "sold"]}}, {"status": 1}, True),
            ({"deletedAt": None}, {"deletedAt": 1}, True),
            ({"status": "sold"}, {"status": -1, "deletedAt": 1}, False),
            ({"number": {"$gt": 7}}, {"number": 1}, False),
        ],
        ids=["a list", "null", "a field that the filter lacks", "a range"],
    )
    def test_an_index_is_used_if_it_needs_no_sort_and_its_absence_is_said(
        self, shop: Shop, caplog: pytest.LogCaptureFixture, source_filter: Any, key: dict[str, int], is_used: bool
    ) -> None:
        for number in range(20):
            deleted_at = datetime(2024, 1, 1, tzinfo=UTC) if number % 2 else None
            status = ["new", "sold", "old", "lost"][number % 4]
            shop["products"].insert_one(product(number, number=number, status=status, deletedAt=deleted_at))
        without = self.source(shop, **source_filter).scan_note()
        shop["products"].create_index([*key.items(), ("_id", 1)])
        found = self.source(shop, **source_filter)
        shop.command("profile", 2)
        rows = len(ids_of(list(found.snapshot())))
        shop.command("profile", 0)
        examined = sum(find["docsExamined"] for find in shop["system.profile"].find({"command.find": "products"}))

        assert "Every run reads all documents of products, of which about" in without
        assert (examined == rows) is is_used
        assert (found.scan_note() == "" and "Every run reads all" not in caplog.text) is is_used
        suggested = {"status": '{"status": 1, "_id": 1}', "deletedAt": '{"deletedAt": 1, "_id": 1}'}
        assert suggested.get(next(iter(source_filter)), "An index can serve only fields that the filter") in without

    def test_a_filter_that_nearly_all_documents_match_needs_no_index(self, shop: Shop) -> None:
        shop["products"].insert_many([product(number, status="new" if number else "sold") for number in range(20)])
        assert self.source(shop, status="new").scan_note() == ""


@pytest.fixture(scope="module")
def fragile_server() -> Iterator[PrivateMongod]:
    with private_mongod("--setParameter", "enableTestCommands=1") as server:
        yield server


@pytest.fixture
def fragile(fragile_server: PrivateMongod) -> Iterator[Shop]:
    """A database with ten products on a server that can be told to fail."""
    # The driver looks for a new primary at every heartbeat, which is 10 s if nothing is said.
    with connect(SourceAddress(fragile_server.url(options="?heartbeatFrequencyMS=500"))) as database:
        database["products"].drop()
        database["products"].insert_many([product(number) for number in range(10)])
        yield database
        database.client.admin.command("configureFailPoint", "failCommand", mode="off")


def fail(shop: Shop, mode: object, *commands: str, **how: object) -> None:
    shop.client.admin.command(
        "configureFailPoint", "failCommand", mode=mode, data={"failCommands": list(commands), **how}
    )


ALL_TEN = [SourceId(IdType.INT, str(number)) for number in range(10)]


class TestFailures:
    @pytest.mark.parametrize(
        "how",
        [
            {"closeConnection": True},
            {"errorCode": 189},
            {"errorCode": 10107},
            {"errorCode": 11601},
            {"errorCode": 43},
            {"errorCode": 175},
        ],
        ids=["connection lost", "primary steps down", "no primary", "killed", "cursor not found", "plan killed"],
    )
    def test_a_failure_in_mid_read_costs_a_page_and_loses_nothing(self, fragile: Shop, how: dict[str, object]) -> None:
        time = FakeTime()
        pages = source(fragile, page_rows=3, timing=time.timing).snapshot()
        seen = [next(pages)]
        fail(fragile, {"times": 3}, "find", **how)

        seen += pages

        assert ids_of(seen) == ALL_TEN
        assert time.sleeps, "the first failure is not tried again at once"

    def test_a_crash_in_mid_read_costs_a_page_and_loses_nothing(
        self, fragile: Shop, fragile_server: PrivateMongod
    ) -> None:
        fragile["products"].with_options(write_concern=WriteConcern(j=True)).insert_one(product(10))
        pages = source(fragile, page_rows=3).snapshot()
        seen = [next(pages)]
        fragile_server.crash_and_restart()

        seen += pages

        assert ids_of(seen) == [*ALL_TEN, SourceId(IdType.INT, "10")]

    def test_a_server_that_stays_away_ends_the_read_with_an_error(self, fragile: Shop) -> None:
        time = FakeTime()
        retry = RetryPolicy(first_s=1, longest_s=8, total_s=20)
        pages = source(fragile, page_rows=3, retry=retry, timing=time.timing).snapshot()
        next(pages)
        fail(fragile, "alwaysOn", "find", errorCode=11601)

        with pytest.raises(SourceReadError, match="stopped answering") as caught:
            list(pages)

        assert time.sleeps == [1, 2, 4, 8, 5]
        assert caught.value.exit_status == 1

    def test_an_error_that_would_come_again_is_not_retried(self, fragile: Shop) -> None:
        time = FakeTime()
        pages = source(fragile, page_rows=3, timing=time.timing).snapshot()
        next(pages)
        fail(fragile, "alwaysOn", "find", errorCode=292)

        with pytest.raises(SourceReadError, match="code 292"):
            list(pages)

        assert time.sleeps == []

    def test_a_collection_that_cannot_be_counted_in_time_is_estimated(self, fragile: Shop) -> None:
        fail(fragile, {"times": 1}, "aggregate", errorCode=50)
        assert source(fragile).whole_count() == (10, False)

    def test_looking_up_ids_survives_a_short_failure(self, fragile: Shop) -> None:
        time = FakeTime()
        reading = source(fragile, timing=time.timing)
        fail(fragile, {"times": 2}, "find", errorCode=11601)
        assert reading.existing(ALL_TEN) == set(ALL_TEN)
        fail(fragile, {"times": 3}, "find", closeConnection=True)
        assert reading.fetch(ALL_TEN).documents == 10
        assert len(time.sleeps) >= 2
