"""Servers that are set up otherwise: a sync works on them, or refuses them at the start by name, and so does doctor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymongo import MongoClient

from product_sync import api
from product_sync.errors import NotAttempted
from product_sync.results import Report
from product_sync.schema.addresses import TargetAddress
from product_sync.targets.postgres.reader import PostgresReader
from product_sync_tests.databases import create_product_table
from product_sync_tests.market import Market, product, products
from product_sync_tests.pooler import transaction_pooler
from product_sync_tests.targets.postgres_tables import role, row_schema_of

pytestmark = pytest.mark.usefixtures("in_memory")


def sync(**switches: Any) -> Report:
    return api.sync(**{"batch_delay_ms": 0, "settle_seconds": 0.0, **switches})


def database(market: Market) -> str:
    return urlsplit(market.cart_url).path[1:]


@pytest.fixture
def refused(market: Market, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Report]]:
    """Runs `doctor` and a sync, which both have to answer with this code and name all of these, in a few seconds."""

    def check(code: str, status: int, *named: str, **env: str) -> Report:
        market.env |= env
        market.enter(monkeypatch)
        for report in (api.doctor(), sync()):
            assert report.error is not None
            assert (report.error.code, report.exit_status) == (code, status), report.error
            for each in named:
                assert each in f"{report.error.message} {report.error.hint}"
        assert not list(market.state.glob("*/runs/*/source.arrow")), "nothing was read"
        return report

    market.stock(products(2))
    market.copy(products(1))
    yield check
    assert market.sql("SELECT id FROM product") == [("p0000",)]


def source(market: Market, options: dict[str, Any], *documents: dict[str, Any]) -> None:
    """Make the collection anew, as ``create`` does with these options."""
    with MongoClient[dict[str, Any]](market.mongodb_url) as client:
        shop = client.get_default_database()
        shop.drop_collection("products")
        shop.command({"create": "products", **options})
        if documents:
            shop["products"].insert_many(documents)


class TestSources:
    @pytest.mark.parametrize(
        ("kind", "options"),
        [
            ("view", {"viewOn": "base", "pipeline": []}),
            ("timeseries", {"timeseries": {"timeField": "at"}}),
        ],
    )
    def test_what_is_no_collection_is_refused_by_its_kind(
        self, refused: Callable[..., Report], market: Market, kind: str, options: dict[str, Any]
    ) -> None:
        source(market, options)
        refused("configuration", 2, "'products'", f"is a {kind}, not a collection")

    @pytest.mark.parametrize(
        "options",
        [
            {"clusteredIndex": {"key": {"_id": 1}, "unique": True, "name": "products clustered key"}},
            {"capped": True, "size": 1_000_000},
            {"collation": {"locale": "de", "strength": 2}},
        ],
        ids=["clustered", "capped", "collation"],
    )
    def test_any_collection_that_has_an_index_on_id_is_read(
        self, market: Market, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
    ) -> None:
        source(market, options, *products(3))
        market.copy([product(0, price=1)])
        market.enter(monkeypatch)
        assert api.doctor().failure is None
        report = api.sync(batch_delay_ms=0, settle_seconds=0.0).raise_for_error()
        assert (report.inserted, report.updated, report.valid) == (2, 1, True)
        assert api.stats().raise_for_error().source_count == 3
        assert api.show("p0001").raise_for_error().state == "equal"

    def test_a_collection_without_an_index_on_id_is_refused(
        self, refused: Callable[..., Report], market: Market
    ) -> None:
        url = market.mongodb_url.replace(urlsplit(market.mongodb_url).path, "/local")
        with MongoClient[dict[str, Any]](market.mongodb_url) as client:
            client["local"].command({"create": "products", "capped": True, "size": 4096, "autoIndexId": False})
        try:
            refused("configuration", 2, "has no index on _id", PRODUCT_SERVICE_MONGODB_URL=url)
        finally:
            with MongoClient[dict[str, Any]](market.mongodb_url) as client:
                client["local"].drop_collection("products")


class TestTables:
    def test_rules_are_refused_by_their_names(self, refused: Callable[..., Report], market: Market) -> None:
        market.sql("CREATE TABLE log (id text)")
        market.sql("CREATE RULE noted AS ON INSERT TO product DO ALSO INSERT INTO log VALUES (new.id)")
        refused("table", 2, "public.product has rules", "noted")

    def test_tables_that_inherit_are_refused_by_their_names(
        self, refused: Callable[..., Report], market: Market
    ) -> None:
        market.sql("CREATE TABLE special_offer () INHERITS (product)")
        refused("table", 2, "inherit from public.product: special_offer")

    def test_an_heir_a_partition_and_columns_that_fill_themselves_are_written(
        self, market: Market, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        market.stock(products(3))
        market.sql("ALTER TABLE product RENAME TO product_0")
        market.sql("ALTER TABLE product_0 RENAME CONSTRAINT product_pkey TO product_0_pkey")
        market.sql("CREATE TABLE product (LIKE product_0 INCLUDING ALL) PARTITION BY HASH (id)")
        market.sql("ALTER TABLE product ATTACH PARTITION product_0 FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
        market.sql("ALTER TABLE product ADD double integer GENERATED ALWAYS AS (price * 2) STORED")
        market.sql("ALTER TABLE product ADD place bigint GENERATED BY DEFAULT AS IDENTITY")
        market.enter(monkeypatch)
        assert api.doctor().failure is None
        assert api.sync(batch_delay_ms=0, settle_seconds=0.0).raise_for_error().inserted == 3
        assert market.sql("SELECT double FROM product ORDER BY id") == [(200,), (202,), (204,)]


class TestEncodings:
    def test_a_text_that_the_server_has_no_characters_for_is_quarantined(
        self, market: Market, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        market.stock([*products(2), product(2, title="Grüße"), product(3, title="日本")])
        with encoded(market, "LATIN1"):
            market.enter(monkeypatch)
            assert api.doctor().failure is None
            report = api.sync(batch_delay_ms=0, settle_seconds=0.0, quarantine_budget=1.0).raise_for_error()
            assert (report.inserted, report.quarantined, report.valid) == (3, 1, True)
            assert ("Grüße",) in market.sql("SELECT title FROM product")

    def test_the_order_of_names_in_json_is_that_of_the_server_and_no_difference(
        self, market: Market, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        facts = {"ü": 1, "zz": 2, "é": {"äöü": [1.5, "ß"], "aaaa": 3}, "q": "日本"}
        market.stock([product(1, image=facts), product(2, image={**facts, "q": "Öl"})])
        with encoded(market, "LATIN1"):
            market.enter(monkeypatch)
            for kind in ("jsonb", "json"):
                market.sql("TRUNCATE product")
                market.sql(f"ALTER TABLE product ALTER image TYPE {kind} USING NULL")
                for inserted in (1, 0):
                    report = api.sync(batch_delay_ms=0, settle_seconds=0.0, quarantine_budget=1.0).raise_for_error()
                    assert (report.inserted, report.quarantined, report.valid) == (inserted, 1, True)

    def test_a_text_that_is_not_utf_8_is_named_as_the_reason(self, market: Market) -> None:
        with encoded(market, "SQL_ASCII"):
            market.copy(products(1))
            market.sql(r"UPDATE product SET title = convert_from('\xe4'::bytea, 'SQL_ASCII')")
            with pytest.raises(NotAttempted, match=r"public\.product holds a text that is not .* UTF-8.*0xe4"):
                list(PostgresReader(TargetAddress(market.cart_url), row_schema_of(market.cart_url)).snapshot())


@contextmanager
def encoded(market: Market, encoding: str) -> Iterator[None]:
    """The market's target is a database in this encoding."""
    own, name = market.cart_url, f"{database(market)}_{encoding.lower()}"
    market.sql(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'")
    try:
        market.cart_url = market.env["CART_DB_URL"] = own.replace(urlsplit(own).path, f"/{name}")
        create_product_table(market.cart_url)
        yield
    finally:
        market.cart_url = own
        market.sql(f"DROP DATABASE {name} WITH (FORCE)")


class TestReadOnly:
    def test_a_database_that_is_set_so_is_refused_and_a_dry_run_is_not(
        self, refused: Callable[..., Report], market: Market
    ) -> None:
        market.sql(f"ALTER DATABASE {database(market)} SET default_transaction_read_only = on")
        try:
            report = refused("read_only", 3, database(market), "default_transaction_read_only")
            assert api.sync(dry_run=True).raise_for_error().missing == 1
            assert api.validate(settle_seconds=0).missing_in_target == 1
        finally:
            assert report.error
            market.sql(report.error.hint)
        assert api.doctor().failure is None, "the hint is the way out"


class TestConnections:
    def test_a_sync_needs_three_and_says_so(self, market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
        market.stock(products(3))
        with role(market.cart_url, "GRANT SELECT, INSERT, UPDATE ON product TO {}") as clerk:
            market.env["CART_DB_URL"] = clerk.url
            market.enter(monkeypatch)
            market.sql(f"ALTER ROLE {clerk.name} CONNECTION LIMIT 1")
            for report in (api.doctor(), sync()):
                assert report.error is not None
                assert (report.error.code, report.exit_status) == ("too_few_connections", 3)
                assert "A sync needs 3 connections" in report.error.hint
            market.sql(f"ALTER ROLE {clerk.name} CONNECTION LIMIT 3")
            assert api.sync(pacing="adaptive", settle_seconds=0.0).raise_for_error().inserted == 3

    def test_a_pool_of_one_session_is_not_waited_for(
        self, refused: Callable[..., Report], market: Market, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("product_sync.targets.postgres.lock._SECOND_SESSION_S", 0.3)
        with transaction_pooler(market.cart_url, sessions=1, mode="session") as pooler:
            refused("too_few_connections", 3, "a second session was not available", CART_DB_URL=pooler.url)

    def test_a_pool_that_lends_by_the_statement_is_found_out(
        self, refused: Callable[..., Report], market: Market
    ) -> None:
        with transaction_pooler(market.cart_url, mode="statement") as pooler:
            refused("transaction_pooling", 3, "session mode", CART_DB_URL=pooler.url)


def test_settings_that_change_how_a_server_writes_names_and_values_change_nothing(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.stock(products(3))
    market.copy([product(0, price=1)])
    market.sql("CREATE SCHEMA first; CREATE TABLE first.product (id integer)")
    market.sql("CREATE FUNCTION first.textrecv(internal) RETURNS text LANGUAGE internal AS 'textrecv'")
    for setting in (
        "quote_all_identifiers = on",
        "standard_conforming_strings = off",
        "search_path = first, pg_catalog",
        "client_encoding = LATIN1",
        "bytea_output = escape",
        "datestyle = 'German, DMY'",
        "extra_float_digits = -15",
        "array_nulls = off",
        "default_transaction_isolation = serializable",
        "row_security = off",
    ):
        market.sql(f"ALTER DATABASE {database(market)} SET {setting}")
    market.enter(monkeypatch)
    assert api.doctor().failure is None
    report = api.sync(batch_delay_ms=0, settle_seconds=0.0).raise_for_error()
    assert (report.inserted, report.updated, report.valid) == (2, 1, True)


def test_doctor_names_both_sides_and_calls_only_what_is_needed_lacking(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.stock(products(1))
    with role(market.cart_url, "GRANT SELECT, INSERT, UPDATE ON product TO {}") as clerk:
        market.env["CART_DB_URL"] = clerk.url
        market.enter(monkeypatch)
        report = api.doctor().raise_for_error()
    mongodb, postgres = urlsplit(market.mongodb_url), urlsplit(market.cart_url)
    assert report.mongodb.host == f"{mongodb.hostname}:{mongodb.port}"
    assert (report.mongodb.database, report.mongodb.collection) == (mongodb.path[1:], "products")
    assert report.postgres.host == f"{postgres.hostname}:{postgres.port}"
    assert (report.postgres.database, report.postgres.schema) == (postgres.path[1:], "public")
    assert (report.postgres.table_name, report.postgres.lacking) == ("product", [])
    assert any(note.startswith("DELETE is not granted") for note in report.postgres.notes or ())


def test_doctor_shows_every_setting_that_a_sync_refuses(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    market.stock(products(1))
    wrong = {
        "SYNC_BATCH_SIZE": "many",
        "SYNC_PACING": "slow",
        "SYNC_CRON_SCHEDULE": "often",
        "PRODUCT_SYNC_OWNERS": "nobody",
        "PRODUCT_SYNC_DOCS_URL": "here",
        "PRODUCT_SYNC_REPORTS_URL": "ftp://x",
        "PRODUCT_SYNC_STATE": "/dev/null",
    }
    market.env |= wrong
    market.enter(monkeypatch)
    report = api.doctor()
    assert report.exit_status == 2
    for name in wrong:
        found = "state folder" if name == "PRODUCT_SYNC_STATE" else name
        assert any(found in problem for problem in report.settings_problems), name
    assert sync().error == report.error


def test_doctor_opens_the_record_of_runs_and_the_files_of_this_sync(
    market: Market, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    market.stock(products(1))
    (tmp_path / "dagster.yaml").write_text("storage:\n  postgres:\n    postgres_url: {env: DAGSTER_PG_URL}\n")
    nobody = {"DAGSTER_HOME": str(tmp_path), "DAGSTER_PG_URL": "postgresql+psycopg2://u:p@127.0.0.1:1/runs"}
    market.env |= nobody
    market.enter(monkeypatch)
    assert api.doctor().exit_status == 3
    for name in nobody:
        del market.env[name]
    market.enter(monkeypatch)
    sync().raise_for_error()
    [quarantine] = market.state.glob("*/quarantine.arrow")
    if os.geteuid() == 0:
        os.chown(quarantine, 65_534, 65_534)
    else:
        quarantine.chmod(0)
    refused = sync()
    assert (refused.exit_status, api.doctor().error) == (2, refused.error)
