"""The functions behind the commands: what a script gets, and what each switch lets through or holds back."""

from __future__ import annotations

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

import product_sync
from product_sync import api, cli
from product_sync.results import SyncReport
from product_sync.runtime.progress import Progress
from product_sync_tests.databases import another_sync
from product_sync_tests.market import Market, product, products
from product_sync_tests.targets.postgres_tables import role


@pytest.fixture(autouse=True)
def environment(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    market.enter(monkeypatch)


def sync(**switches: object) -> SyncReport:
    """Without pauses, and without the seconds between two readings."""
    return api.sync(**{"batch_delay_ms": 0, "settle_seconds": 0.0, "lock_wait_s": 0.0, **switches})  # type: ignore[arg-type]


class TestPackage:
    def test_the_functions_are_the_package_s_own(self) -> None:
        assert product_sync.sync is api.sync
        assert {"sync", "validate", "stats", "doctor"} < set(product_sync.__all__)
        assert product_sync.__version__.count(".") == 2

    def test_what_is_not_there_is_an_attribute_error(self) -> None:
        with pytest.raises(AttributeError, match="no attribute 'synchronise'"):
            product_sync.synchronise  # noqa: B018 - asking for it is the test

    def test_importing_it_loads_neither_dagster_nor_a_driver(self) -> None:
        script = (
            "import sys; from product_sync import sync; sys.exit(bool({'dagster', 'psycopg'} & sys.modules.keys()))"
        )
        subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.usefixtures("in_memory")
class TestProgress:
    def test_a_listener_hears_of_every_stage_to_its_end(self, market: Market) -> None:
        market.stock(products(25))
        heard: list[Progress] = []
        sync(batch_size=10, on_progress=heard.append).raise_for_error()
        assert {"read source", "read target", "load"} <= {progress.stage for progress in heard}
        assert [progress.done for progress in heard if progress.stage == "load"][-3:] == [10, 20, 25]

    def test_a_bug_in_a_listener_is_raised_as_it_is(self, market: Market) -> None:
        market.stock(products(1))

        def buggy(_: Progress) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            sync(on_progress=buggy)
        assert market.rows() == {}


@pytest.mark.usefixtures("in_memory")
class TestSettings:
    def test_arguments_win_over_the_environment(self, market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
        market.stock(products(12))
        monkeypatch.setenv("SYNC_BATCH_SIZE", "3")
        assert sync(dry_run=True, probe=False).batches == 4
        report = sync(dry_run=True, probe=False, batch_size=6)
        assert (report.batches, report.estimated_s) == (2, None), "without a probe there is no estimate"


@pytest.mark.usefixtures("in_memory")
class TestLock:
    def test_a_sync_names_who_holds_the_lock_and_a_dry_run_goes_on(self, market: Market) -> None:
        market.stock(products(2))
        with another_sync(market.cart_url):
            report, dry = sync(), sync(dry_run=True)
        assert (report.exit_status, report.error and report.error.code) == (3, "already_running")
        assert "another sync" in str(report.failure)
        assert market.rows() == {}
        assert (dry.exit_status, dry.missing, dry.estimated_s) == (0, 2, None)

    def test_a_sync_that_finds_the_lock_taken_waits_says_so_and_goes_on_when_it_is_free(self, market: Market) -> None:
        market.stock(products(2))
        heard: list[Progress] = []
        with another_sync(market.cart_url) as connection:

            def free_after_three(progress: Progress) -> None:
                if progress.stage == "waiting":
                    heard.append(progress)
                if len(heard) == 3:
                    connection.close()

            report = sync(lock_wait_s=60.0, on_progress=free_after_three)
        assert (report.exit_status, report.inserted, report.valid) == (0, 2, True)
        assert str(heard[0]).startswith("waiting: another sync holds the lock: another sync (backend ")
        assert str(heard[0]).endswith("giving up in 60 s")

    def test_a_sync_that_waited_in_vain_says_for_how_long(self, market: Market) -> None:
        market.stock(products(1))
        with another_sync(market.cart_url):
            report = sync(lock_wait_s=0.3)
        assert (report.exit_status, report.error and report.error.code) == (3, "already_running")
        assert "Waited 0.3 s." in str(report.failure)


@pytest.mark.usefixtures("in_memory")
class TestChecks:
    def test_a_mass_change_is_not_written_until_it_is_accepted(self, market: Market) -> None:
        market.stock(products(110))
        market.copy([product(number, price=1) for number in range(110)])
        before = market.rows()
        refused = sync()
        assert (refused.exit_status, refused.changed, refused.updated) == (1, 110, None)
        assert "--accept-changes" in str(refused.failure)
        assert market.rows() == before
        assert sync(accept_changes=True).raise_for_error().updated == 110

    def test_a_validation_that_finds_a_difference_names_it_and_fails(self, market: Market) -> None:
        market.stock(products(3))
        market.copy([product(1, title="Old"), product(2), product(9)])
        report = api.validate(settle_seconds=0)
        assert (report.exit_status, report.valid) == (1, False)
        assert (report.missing_ids, report.changed_ids, report.extra_ids) == (["p0000"], ["p0001"], ["p0009"])
        assert len(market.rows()) == 3


@pytest.mark.usefixtures("in_memory")
def test_nothing_in_quarantine_is_no_reason_and_not_an_unknown_one(market: Market) -> None:
    market.stock(products(3))
    answers = sync(dry_run=True), sync(), api.validate(settle_seconds=0)
    assert [answer.quarantined_by_reason for answer in answers] == [{}, {}, {}]


@pytest.mark.usefixtures("in_memory")
class TestStoppedLoad:
    def test_it_tells_what_was_written_and_what_was_not_attempted(self, market: Market) -> None:
        market.stock(products(40))
        market.sql(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END $$"
        )
        market.sql(
            "CREATE TRIGGER full_disk BEFORE INSERT ON product FOR EACH ROW WHEN (NEW.id > 'p0014')"
            " EXECUTE FUNCTION full_disk()"
        )
        report = sync(batch_size=10)
        assert (report.exit_status, report.error and report.error.code) == (1, "load_stopped")
        assert "no space left" in str(report.failure)
        assert (report.inserted, report.failed_batches, report.not_attempted_batches) == (10, 1, 2)
        assert len(market.rows()) == 10


@pytest.mark.usefixtures("in_memory")
class TestExtra:
    @pytest.fixture
    def catalogue(self, market: Market) -> Market:
        market.stock(products(60))
        market.copy(products(62))
        market.sql("CREATE TABLE cart_item (product_id text REFERENCES product (id))")
        market.sql("INSERT INTO cart_item VALUES ('p0061')")
        return market

    def test_they_are_deleted_when_asked_for_but_for_those_in_a_cart(self, catalogue: Market) -> None:
        report = sync(extra="delete").raise_for_error()
        assert (report.extra, report.deleted, report.kept_referenced) == (2, 1, 1)
        assert set(catalogue.rows()) == {each["_id"] for each in products(60)} | {"p0061"}

    def test_none_is_deleted_when_that_would_empty_carts(self, catalogue: Market) -> None:
        catalogue.sql("ALTER TABLE cart_item DROP CONSTRAINT cart_item_product_id_fkey")
        catalogue.sql("ALTER TABLE cart_item ADD FOREIGN KEY (product_id) REFERENCES product ON DELETE CASCADE")
        report = sync(extra="delete")
        assert (report.extra, report.deleted) == (2, 0)
        assert len(catalogue.rows()) == 62
        assert catalogue.sql("SELECT count(*) FROM cart_item") == [(1,)]


@pytest.mark.usefixtures("in_memory")
def test_the_mapping_file_decides_what_goes_where(
    market: Market, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(
        "source: {collection: articles}\n"
        "target: {schema: public, table: offer}\n"
        "columns:\n"
        "  sku: {source: _id}\n"
        "  price: {source: price.amount}\n"
        "  unit: {source: price.unit, default: piece}\n"
        "  stock: {source: stock, update: false}\n"
    )
    monkeypatch.setenv("PRODUCT_SYNC_MAPPING", str(mapping))
    market.sql("CREATE TABLE offer (sku text PRIMARY KEY, price numeric(10,2), unit text NOT NULL, stock integer)")
    articles = [
        {"_id": "a", "price": {"amount": 99.99, "unit": "kg"}, "stock": 5},
        {"_id": "b", "price": {"amount": 0.1}, "stock": 6},
    ]
    market.stock(articles, "articles")
    sync().raise_for_error()
    assert market.sql("SELECT * FROM offer ORDER BY sku") == [
        ("a", Decimal("99.99"), "kg", 5),
        ("b", Decimal("0.10"), "piece", 6),
    ]

    market.sql("UPDATE offer SET stock = 0, unit = 'pound' WHERE sku = 'a'")
    assert sync().raise_for_error().updated == 1
    assert market.sql("SELECT * FROM offer WHERE sku = 'a'") == [("a", Decimal("99.99"), "kg", 0)]
    market.sql("UPDATE offer SET stock = 1")
    assert sync().raise_for_error().changed == 0


class TestDoctor:
    def test_a_side_that_is_down_does_not_hide_the_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        url = "mongodb://127.0.0.1:1/shop?serverSelectionTimeoutMS=200"
        monkeypatch.setenv("PRODUCT_SERVICE_MONGODB_URL", url)
        report = api.doctor()
        assert report.exit_status == 3
        assert report.mongodb.reachable is False
        assert report.mongodb.error
        assert report.mongodb.error.code == "unreachable"
        assert report.postgres.reachable is True
        assert report.postgres.error is None

    def test_a_variable_that_is_not_set_says_nothing_about_the_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CART_DB_URL")
        report = api.doctor()
        assert report.postgres.reachable is None
        assert report.postgres.error
        assert "CART_DB_URL is not set" in report.postgres.error.message

    def test_a_missing_collection_and_a_missing_table_are_both_told(self, market: Market) -> None:
        market.sql("DROP TABLE product")
        report = api.doctor()
        assert (report.mongodb.reachable, report.postgres.reachable) == (True, True)
        assert report.mongodb.error
        assert report.postgres.error
        assert (report.mongodb.error.code, report.postgres.error.code) == ("source_missing", "table")
        assert report.exit_status == 2
        assert report.postgres.version, "the server is told all the same"
        assert report.postgres.latency_ms is not None

    def test_privileges_that_are_lacking_are_named(self, market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
        market.stock(products(1))
        with role(market.cart_url, "GRANT SELECT, INSERT ON product TO {}") as user:
            monkeypatch.setenv("CART_DB_URL", user.url)
            report = api.doctor()
        assert report.exit_status == 3
        assert report.postgres.privileges == ["SELECT", "INSERT"]
        assert report.postgres.lacking is not None
        assert any(lacking.startswith("UPDATE") for lacking in report.postgres.lacking)


def test_a_bug_ends_with_its_traceback_and_with_all_keys(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def buggy(**_: object) -> None:
        raise KeyError("of the test")

    monkeypatch.setattr(api, "stats", buggy)
    with pytest.raises(KeyError, match="of the test"):
        cli.main(["stats", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["source_count"] is None
    assert "KeyError" in answer["error"]["message"]
