"""Input that cannot work is refused at once, with the fault, the value and the way out. Nothing is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from pymongo import MongoClient

from product_sync import api
from product_sync.results import Report
from product_sync_tests.market import Market, product, products
from product_sync_tests.pooler import transaction_pooler
from product_sync_tests.sources.private_mongod import private_mongod
from product_sync_tests.targets.postgres_tables import PASSWORD, role

#: Nobody listens on the port of tcpmux.
NOBODY = "127.0.0.1:1"
CONFIGURATION, NOT_ATTEMPTED = 2, 3

Refused = Callable[..., Report]


@pytest.fixture
def refused(market: Market, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Refused]:
    """Runs the sync, which is to be refused with this code and exit status, naming all of these.

    Two products are in the source and one of them in the target, so that there is something to write.
    """
    market.stock(products(2))
    market.copy(products(1))

    def check(code: str, status: int, *named: str, run: Callable[[], Report] = api.sync, **env: str) -> Report:
        market.env |= env
        market.enter(monkeypatch)
        report = run()
        answer = report.as_json()
        assert (answer["error"]["code"], report.exit_status) == (code, status), answer["error"]
        said = f"{answer['error']['message']} {answer['error']['hint']}"
        for each in named:
            assert each in said
        assert answer["error"]["hint"]
        assert PASSWORD not in json.dumps(answer) + caplog.text
        assert not secrets_in(market.state)
        assert market.remembered() == {}
        return report

    yield check
    if market.sql("SELECT to_regclass('product')::text") == [("product",)]:
        assert market.sql("SELECT id FROM product") == [("p0000",)]


def secrets_in(folder: Path) -> list[Path]:
    """The files below ``folder`` that hold the password: the state, and Dagster's storage of runs and events."""
    return [path for path in folder.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]


class TestSettings:
    @pytest.mark.parametrize("name", ["PRODUCT_SERVICE_MONGODB_URL", "CART_DB_URL"])
    def test_a_variable_that_is_not_set_is_named_with_its_form(self, refused: Refused, name: str) -> None:
        refused("configuration", CONFIGURATION, f"{name} is not set", f"{name}=", **{name: " "})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("SYNC_BATCH_SIZE", "many"),
            ("SYNC_BATCH_DELAY_MS", "0.5"),
        ],
    )
    def test_a_number_out_of_bounds_is_named_with_its_variable(self, refused: Refused, name: str, value: str) -> None:
        refused("configuration", CONFIGURATION, name, value, **{name: value})

    def test_a_batch_size_out_of_bounds_is_refused_before_anything_is_opened(
        self, refused: Refused, market: Market
    ) -> None:
        market.forget_all()
        refused("configuration", CONFIGURATION, "1000000", "1 to 100000", run=lambda: api.sync(batch_size=1_000_000))
        assert not market.state.exists()

    def test_a_mapping_file_with_a_mistake_is_named_with_the_place(self, refused: Refused, tmp_path: Path) -> None:
        path = tmp_path / "mapping.yaml"
        path.write_text("source: {collection: products}\ntarget: {table: product}\ncolumns: {id: {sauce: _id}}\n")
        refused(
            "mapping",
            CONFIGURATION,
            str(path),
            'columns.id has the key "sauce", did you mean "source"?',
            PRODUCT_SYNC_MAPPING=str(path),
        )

    @pytest.mark.parametrize("name", ["PRODUCT_SYNC_STATE", "DAGSTER_HOME"])
    def test_a_folder_that_cannot_be_used_is_named(self, refused: Refused, tmp_path: Path, name: str) -> None:
        (tmp_path / "file").touch()
        folder = str(tmp_path / "file" / "folder")
        refused("configuration", CONFIGURATION, name, folder, **{name: folder})

    def test_a_cron_expression_that_is_none_is_named_when_definitions_load(self, market: Market) -> None:
        loaded = subprocess.run(
            [sys.executable, "-c", "import product_sync.definitions"],
            env={**market.env, "SYNC_CRON_SCHEDULE": "every ten minutes"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert loaded.returncode != 0
        assert "ConfigurationError: SYNC_CRON_SCHEDULE is 'every ten minutes'." in loaded.stderr
        assert "five fields" in loaded.stderr


class TestSource:
    def test_a_server_that_is_not_there_is_named(self, refused: Refused) -> None:
        url = f"mongodb://reader:{PASSWORD}@{NOBODY}/shop?serverSelectionTimeoutMS=200"
        refused("unreachable", NOT_ATTEMPTED, NOBODY, "MONGODB_URL", PRODUCT_SERVICE_MONGODB_URL=url)

    def test_a_url_without_a_database_is_told_the_form(self, refused: Refused) -> None:
        refused("configuration", CONFIGURATION, "database", PRODUCT_SERVICE_MONGODB_URL=f"mongodb://{NOBODY}")

    def test_a_wrong_password_is_told_as_such(self, refused: Refused) -> None:
        with private_mongod("--auth") as guarded:
            create_user(guarded.port)
            refused(
                "access_denied",
                NOT_ATTEMPTED,
                f"127.0.0.1:{guarded.port}",
                "MONGO_PASSWORD",
                PRODUCT_SERVICE_MONGODB_URL=guarded.url(),
                MONGO_USER="reader",
                MONGO_PASSWORD=PASSWORD,
            )

    def test_a_user_without_a_password_is_half_a_login(self, refused: Refused) -> None:
        refused("configuration", CONFIGURATION, "MONGO_PASSWORD is not", MONGO_USER="reader")

    def test_a_collection_that_is_not_there_is_no_empty_source(self, refused: Refused, market: Market) -> None:
        with MongoClient[dict[str, Any]](market.mongodb_url) as client:
            client.get_default_database()["products"].rename("goods")
        refused("source_missing", CONFIGURATION, "products", "goods")

    def test_a_database_that_is_not_there_is_no_empty_source(self, refused: Refused, market: Market) -> None:
        elsewhere = urlunsplit(urlsplit(market.mongodb_url)._replace(path="/another_shop"))
        refused("source_missing", CONFIGURATION, "another_shop", PRODUCT_SERVICE_MONGODB_URL=elsewhere)


class TestTarget:
    def test_a_server_that_is_not_there_is_named(self, refused: Refused) -> None:
        url = f"postgresql://cart:{PASSWORD}@{NOBODY}/cart"
        refused("unreachable", NOT_ATTEMPTED, NOBODY, "CART_DB_URL", CART_DB_URL=url)

    def test_a_wrong_password_is_told_as_such(self, refused: Refused, market: Market) -> None:
        with role(market.cart_url, password="another-one") as clerk:
            url = clerk.url.replace("another-one", PASSWORD)
            refused("access_denied", NOT_ATTEMPTED, clerk.name, "CART_DB_URL", CART_DB_URL=url)

    def test_a_database_that_is_not_there_is_named(self, refused: Refused, market: Market) -> None:
        url = urlunsplit(urlsplit(market.cart_url)._replace(path="/no_such_cart"))
        refused("configuration", CONFIGURATION, "no_such_cart", "CART_DB_URL", CART_DB_URL=url)

    def test_a_table_that_is_not_there_is_named_with_those_that_are(self, refused: Refused, market: Market) -> None:
        market.sql("ALTER TABLE product RENAME TO products")
        refused("table", CONFIGURATION, "public.product", "the tables products")

    def test_a_column_that_is_not_there_is_named(self, refused: Refused, market: Market) -> None:
        market.sql("ALTER TABLE product DROP COLUMN quantity")
        refused("table", CONFIGURATION, "quantity", "public.product")

    def test_an_id_that_does_not_identify_a_row_is_refused(self, refused: Refused, market: Market) -> None:
        market.sql("ALTER TABLE product DROP CONSTRAINT product_pkey")
        refused("table", CONFIGURATION, "primary key", "id")

    def test_a_column_type_that_cannot_be_exact_is_refused_by_name(self, refused: Refused, market: Market) -> None:
        market.sql("ALTER TABLE product ALTER price TYPE money")
        refused("table", CONFIGURATION, "price", "money")

    def test_a_mandatory_column_that_nobody_fills_is_refused_by_name(self, refused: Refused, market: Market) -> None:
        market.sql("ALTER TABLE product ADD colour text NOT NULL DEFAULT 'red'")
        market.sql("ALTER TABLE product ALTER colour DROP DEFAULT")
        refused("table", CONFIGURATION, "colour")

    def test_a_role_without_insert_is_told_what_to_grant(self, refused: Refused, market: Market) -> None:
        with role(market.cart_url, "GRANT SELECT, UPDATE ON product TO {}") as clerk:
            report = refused(
                "access_denied",
                NOT_ATTEMPTED,
                f'GRANT INSERT ON "public"."product" TO "{clerk.name}";',
                CART_DB_URL=clerk.url,
            )
        assert report.as_json()["missing"] == 1, "what was found before is still told"
        assert report.error
        assert "INSERT on id, title" in report.error.message
        assert "DELETE" not in report.error.message, "it is not needed, so it is not asked for"

    def test_a_dry_run_needs_no_privilege_to_write(self, market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
        market.stock(products(2))
        with role(market.cart_url, "GRANT SELECT ON product TO {}") as clerk:
            market.env["CART_DB_URL"] = clerk.url
            market.enter(monkeypatch)
            report = api.sync(dry_run=True).raise_for_error()
        assert (report.missing, report.estimated_s) == (2, None)

    def test_transaction_pooling_is_found_out(self, refused: Refused, market: Market) -> None:
        with transaction_pooler(market.cart_url) as pooler:
            refused("transaction_pooling", NOT_ATTEMPTED, "pool", CART_DB_URL=pooler.url)


class TestAsProcess:
    """A few of the above from outside: standard output, standard error, exit status."""

    def test_a_refusal_is_one_json_object_and_a_line_for_people(self, market: Market) -> None:
        market.stock([product(1)])
        outcome = market.run("sync", "--json", CART_DB_URL=f"postgresql://cart:{PASSWORD}@{NOBODY}/cart")
        assert outcome.status == NOT_ATTEMPTED
        assert outcome.error["code"] == "unreachable"
        assert outcome.answer["source_count"] is None
        assert outcome.stderr.startswith("error (unreachable): PostgreSQL at 127.0.0.1:1/cart")
        assert "Traceback" not in outcome.stderr
        assert PASSWORD not in outcome.everything

    def test_a_failure_inside_the_run_has_no_traceback_either(self, market: Market) -> None:
        url = f"mongodb://reader:{PASSWORD}@{NOBODY}/shop?serverSelectionTimeoutMS=200"
        outcome = market.run("sync", "--json", PRODUCT_SERVICE_MONGODB_URL=url)
        assert outcome.status == NOT_ATTEMPTED
        assert outcome.error["code"] == "unreachable"
        assert outcome.answer["run_id"], "the run is in the history"
        assert len(outcome.stderr.splitlines()) == 2, outcome.stderr
        assert PASSWORD not in outcome.everything
        assert not secrets_in(market.state)

    @pytest.mark.parametrize("command", ["sync", "validate", "stats", "doctor"])
    def test_bad_usage_is_answered_in_json_too(self, market: Market, command: str) -> None:
        outcome = market.run(command, "--json", "--no-such-option")
        assert outcome.status == CONFIGURATION
        assert "--no-such-option" in outcome.error["message"]
        assert f"product-sync {command} --help" in outcome.error["hint"]


def create_user(port: int) -> None:
    """The first user of a guarded server, made through the exception for localhost."""
    with MongoClient[dict[str, Any]]("127.0.0.1", port) as client:
        client.admin.command("createUser", "root", pwd="root-of-the-test", roles=["root"])


def test_an_alert_url_that_cannot_be_used_is_shown_by_doctor_without_its_token(refused: Refused) -> None:
    refused(
        "configuration", CONFIGURATION, "PRODUCT_SYNC_ALERT_URLS, URL 1 of 2 (slack://…)", run=api.doctor,
        PRODUCT_SYNC_ALERT_URLS=f"slack://{PASSWORD} json://h/{PASSWORD}",
    )  # fmt: skip


def test_an_alert_setting_that_cannot_be_is_shown_by_doctor(refused: Refused) -> None:
    refused(
        "configuration", CONFIGURATION, "PRODUCT_SYNC_UI_URL", run=api.doctor, PRODUCT_SYNC_UI_URL="dagster.example"
    )
