"""Each document and each row is in exactly one range of ids, whatever their kind and the collations of both sides."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from bson import Binary, Decimal128, Int64, MaxKey, MinKey, ObjectId, encode
from bson.raw_bson import RawBSONDocument
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from product_sync.conversion.ids import can_be_in
from product_sync.embedded import postgres
from product_sync.embedded.process import free_port
from product_sync.embedded.servers import Servers
from product_sync.schema.addresses import SourceAddress, TargetAddress
from product_sync.schema.scope import KeyRange, key_ranges
from product_sync.schema.types import ColumnType
from product_sync.sources.mongodb import MongoSource, connect
from product_sync.targets.postgres import row_sql
from product_sync.targets.postgres.reader import PostgresReader
from product_sync_tests.databases import mongodb_database
from product_sync_tests.source_contract import product, product_row_schema
from product_sync_tests.targets.postgres_tables import row_schema_of

Shop = Database[dict[str, Any]]
_HEX = "0123456789abcdef"
_OBJECT_IDS = st.binary(min_size=12, max_size=12).map(ObjectId)
_UUIDS = st.uuids()
_INTEGERS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-1_100, 1_100))
_STRINGS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.text("aAbBzZäÖé -_09", max_size=4),
    st.text(_HEX + "ABCDEF", min_size=23, max_size=25),
    _OBJECT_IDS.map(str),
    _OBJECT_IDS.map(lambda each: str(each).upper()),
    _UUIDS.map(str),
    _INTEGERS.map(str),
    st.text("0123456789", max_size=20),
)
_WITHOUT_TEXT = st.one_of(
    st.floats(width=64), st.booleans(), st.none(), st.datetimes().map(lambda each: each.replace(microsecond=0)),
    st.just(MinKey()), st.just(MaxKey()), st.dictionaries(st.text("ab", min_size=1), st.integers(0, 3), max_size=2),
    st.integers(-(10**20), 10**20).map(lambda each: Decimal128(str(each))),
    st.decimals(-10, 10, places=2).map(lambda each: Decimal128(str(each))),
    st.tuples(st.binary(max_size=20), st.sampled_from([0, 3, 128])).map(lambda each: Binary(*each)),
)  # fmt: skip
_IDS = st.one_of(_OBJECT_IDS, _STRINGS, _UUIDS.map(Binary.from_uuid), _INTEGERS.map(Int64), _WITHOUT_TEXT)
_NOT_UTF8 = RawBSONDocument(encode(product("QQQ")).replace(b"QQQ", b"a\xfeQ"))
#: The columns that can hold ids.
_COLUMNS = {
    "in_bytes": 'text COLLATE "C"',
    "by_language": "text COLLATE language",
    "by_default": "varchar",
    "padded": "char(40)",
    "uuids": "uuid",
    "whole": "integer",
    "big": "bigint",
}


@contextmanager
def _tables() -> Iterator[str]:
    """A PostgreSQL with a table for each kind. The embedded server knows no language, so one is made for it, if this
    machine has the sources of languages."""
    folder = Path(tempfile.mkdtemp(prefix="product_sync_tests_"))
    folder.chmod(0o711)
    language = folder / "languages" / "de_DE.UTF-8"
    language.parent.mkdir()
    command = ["localedef", "--no-warnings=ascii", "-i", "de_DE", "-f", "UTF-8", str(language)]
    made = shutil.which("localedef") and subprocess.run(command, check=False).returncode == 0
    with pytest.MonkeyPatch.context() as patch:
        if made:
            patch.setenv("LOCPATH", str(language.parent))
        server = postgres.launch(folder, port=free_port(), log=folder / "log", durable=False, say=print)
    try:
        server.wait_until_ready()
        url = server.url("postgres")
        with psycopg.connect(url, autocommit=True) as connection:
            locale = language.name if made else "C.utf8"
            connection.execute(f"CREATE COLLATION language (provider = libc, locale = '{locale}')".encode())
            for name, kind in _COLUMNS.items():
                connection.execute(f"CREATE TABLE {name} (id {kind} PRIMARY KEY, title text)".encode())
        yield url
    finally:
        server.process.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def sides(servers: Servers) -> Iterator[tuple[Shop, str]]:
    with mongodb_database(servers) as url, connect(SourceAddress(url)) as shop, _tables() as tables:
        shop.create_collection("simple")
        shop.create_collection("ignoring_case", collation={"locale": "de", "strength": 2})
        yield shop, tables


def _stocked(collection: Collection[dict[str, Any]], ids: list[Any]) -> int:
    """Equal ids of a collection are left out. Returns how many documents there are."""
    collection.delete_many({})
    documents: list[Any] = [product(bson_id) for bson_id in ids]
    with suppress(BulkWriteError):
        collection.insert_many([*documents, _NOT_UTF8], ordered=False)
    return collection.count_documents({})


def _texts(source: MongoSource) -> tuple[list[str], int]:
    """The texts of the ids that a source reads, and how many documents have none."""
    pages = list(source.snapshot())
    rejects = [reject.source_id for page in pages for reject in page.rejects]
    texts = [text for page in pages for text in page.rows["id"].to_pylist()]
    return texts + [each.text for each in rejects if each], rejects.count(None)


@settings(max_examples=10, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(ids=st.lists(_IDS, max_size=80), count=st.integers(1, 9), sampled=st.lists(_STRINGS, max_size=20))
def test_each_document_is_in_one_range(sides: tuple[Shop, str], ids: list[Any], count: int, sampled: list[str]) -> None:
    for name in ("simple", "ignoring_case"):
        collection = sides[0][name]
        total = _stocked(collection, ids)
        source = MongoSource(sides[0], product_row_schema(name))
        ranges = key_ranges([*source.sample_ids(100), *sampled], count)
        read = 0
        for each in ranges:
            texts, without = _texts(MongoSource(sides[0], product_row_schema(name), scope=each, page_rows=3))
            assert [text for text in texts if text not in each] == []
            read += len(texts) + without
        assert read == total


#: The first example is the simplest one, of texts of no other kind. The others hold ids of every column.
@settings(max_examples=3, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    ids=st.lists(_STRINGS, min_size=80, max_size=200, unique=True),
    count=st.integers(3, 4),
    sampled=st.lists(_STRINGS, max_size=20),
)
def test_each_row_is_in_one_range(sides: tuple[Shop, str], ids: list[str], count: int, sampled: list[str]) -> None:
    ranges = key_ranges([*ids, *sampled], count)
    for table in _COLUMNS:
        row_schema = row_schema_of(sides[1], table)
        fits = sorted({text for text in ids if _can_be_in(row_schema.key.type, text)})
        with psycopg.connect(sides[1], autocommit=True) as connection:
            connection.execute(f"TRUNCATE {table}".encode())
            connection.cursor().executemany(f"INSERT INTO {table} VALUES (%s)".encode(), [(text,) for text in fits])
        read: list[str] = []
        for each in ranges:
            reader = PostgresReader(TargetAddress(sides[1]), row_schema, scope=each)
            texts = [text for batch in reader.snapshot() for text in batch["id"].to_pylist()]
            assert [text for text in texts if text not in each] == []
            read += texts
        assert sorted(read) == fits, table


def _can_be_in(kind: ColumnType, text: str) -> bool:
    return can_be_in(kind, text) and len(text) <= (kind.length or len(text))


def test_the_source_looks_only_at_the_documents_of_a_range(sides: tuple[Shop, str]) -> None:
    numbers = range(900)
    kinds = [(n, f"sku-{n}", ObjectId(f"{n * 7919:024x}"), Binary.from_uuid(UUID(int=n << 118))) for n in numbers]
    total = _stocked(sides[0]["simple"], [bson_id for each in kinds for bson_id in each])

    def looked_at() -> int:
        executor = sides[0].client.admin.command("serverStatus")["metrics"]["queryExecutor"]
        return int(executor["scanned"]) + int(executor["scannedObjects"])

    before = looked_at()
    for each in key_ranges([str(n) for n in numbers] + [f"{n * 7919:024x}" for n in numbers], 5):
        list(MongoSource(sides[0], product_row_schema("simple"), scope=each, page_rows=100).snapshot())
    assert looked_at() - before < 2.2 * total, "an entry of the index and a document each, and some at the borders"


def test_the_target_seeks_a_range_in_the_index_of_the_key(sides: tuple[Shop, str]) -> None:
    with psycopg.connect(sides[1]) as connection:
        connection.execute("SET enable_seqscan = off")
        for table in ("in_bytes", "by_default", "uuids", "whole", "big"):
            row_schema = row_schema_of(sides[1], table)
            reader = PostgresReader(TargetAddress(sides[1]), row_schema, scope=KeyRange("1", "5"))
            [[plan]] = connection.execute(row_sql.estimate(row_schema, reader._wanted)).fetchall()
            assert "Index Cond" in str(plan), table
            assert "Filter" not in str(plan), table


def test_a_cut_has_ranges_of_about_the_same_size_of_whatever_ids() -> None:
    for ids in ([f"{number:024x}" for number in range(9_000)], [f"SKU-{number}" for number in range(9_000)]):
        sizes = [sum(text in each for text in ids) for each in key_ranges(ids, 9)]
        assert sizes == [1_000] * 9
    assert key_ranges([], 4) == [KeyRange()]
    assert [each.first for each in key_ranges(["ä", "äb", "a\x00", "b ", "b  c"], 5)] == ["", "b", "b  c"]
