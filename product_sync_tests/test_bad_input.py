"""Input that cannot work is refused at once, with the fault, the value and the way out. Nothing is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import pytest
from pymongo import MongoClient

from product_sync import api
from product_sync.results import Report
from product_sync_tests.market import Market, product, products
from product_sync_tests.targets.postgres_tables import PASSWORD, role

#: Nobody listens on the port of tcpmux.
NOBODY = "127.0.0.1:1"
#: A file, where a folder is asked for.
FILE = Path(__file__)
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
        assert market.remembered() == {}
        return report

    yield check
    if market.sql("SELECT to_regclass('product')::text") == [("product",)]:
        assert market.sql("SELECT id FROM product") == [("p0000",)]


class Bad(NamedTuple):
    """What is bad (the environment or the table), the code of the error, and what it names."""

    code: str
    named: tuple[str, ...]
    env: Mapping[str, str] = MappingProxyType({})
    ddl: str = ""
    status: int = CONFIGURATION


MONGODB, CART = "PRODUCT_SERVICE_MONGODB_URL", "CART_DB_URL"
BAD = {
    "no URL of the source": Bad("configuration", (f"{MONGODB} is not set", f"{MONGODB}="), {MONGODB: " "}),
    "no URL of the target": Bad("configuration", (f"{CART} is not set", f"{CART}="), {CART: " "}),
    "a number that is none": Bad("configuration", ("SYNC_BATCH_SIZE", "many"), {"SYNC_BATCH_SIZE": "many"}),
    "a fraction of a millisecond": Bad("configuration", ("SYNC_BATCH_DELAY_MS", "0.5"), {"SYNC_BATCH_DELAY_MS": "0.5"}),
    "a state that is no folder": Bad(
        "configuration", ("PRODUCT_SYNC_STATE", f"{FILE}/x"), {"PRODUCT_SYNC_STATE": f"{FILE}/x"}
    ),
    "a home that is no folder": Bad("configuration", ("DAGSTER_HOME", f"{FILE}/x"), {"DAGSTER_HOME": f"{FILE}/x"}),
    "a source that is not there": Bad(
        "unreachable",
        (NOBODY, "MONGODB_URL"),
        {MONGODB: f"mongodb://reader:{PASSWORD}@{NOBODY}/shop?serverSelectionTimeoutMS=200"},
        status=NOT_ATTEMPTED,
    ),
    "a source without a database": Bad("configuration", ("database",), {MONGODB: f"mongodb://{NOBODY}"}),
    "half a login": Bad("configuration", ("MONGO_PASSWORD is not",), {"MONGO_USER": "reader"}),
    "a target that is not there": Bad(
        "unreachable", (NOBODY, CART), {CART: f"postgresql://cart:{PASSWORD}@{NOBODY}/cart"}, status=NOT_ATTEMPTED
    ),
    "a table that is not there": Bad(
        "table", ("public.product", "the tables products"), ddl="ALTER TABLE product RENAME TO products"
    ),
    "a column that is not there": Bad(
        "table", ("quantity", "public.product"), ddl="ALTER TABLE product DROP COLUMN quantity"
    ),
    "an id that does not identify": Bad(
        "table", ("primary key", "id"), ddl="ALTER TABLE product DROP CONSTRAINT product_pkey"
    ),
    "a type that cannot be exact": Bad("table", ("price", "money"), ddl="ALTER TABLE product ALTER price TYPE money"),
    "a mandatory column that nobody fills": Bad(
        "table",
        ("colour",),
        ddl="ALTER TABLE product ADD colour text NOT NULL DEFAULT 'red'; ALTER TABLE product ALTER colour DROP DEFAULT",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_bad_is_named_with_the_value_and_the_way_out(refused: Refused, market: Market, case: str) -> None:
    bad = BAD[case]
    if bad.ddl:
        market.sql(bad.ddl)
    refused(bad.code, bad.status, *bad.named, **bad.env)


def test_a_batch_size_out_of_bounds_is_refused_before_anything_is_opened(refused: Refused, market: Market) -> None:
    market.forget_all()
    refused("configuration", CONFIGURATION, "1000000", "1 to 100000", run=lambda: api.sync(batch_size=1_000_000))
    assert not market.state.exists()


def test_a_mapping_file_with_a_mistake_is_named_with_the_place(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text("source: {collection: products}\ntarget: {table: product}\ncolumns: {id: {sauce: _id}}\n")
    mistake = 'columns.id has the key "sauce", did you mean "source"?'
    refused("mapping", CONFIGURATION, str(path), mistake, PRODUCT_SYNC_MAPPING=str(path))


def test_a_cron_expression_that_is_none_is_named_when_definitions_load(market: Market) -> None:
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


def test_a_source_that_is_not_there_is_no_empty_source(refused: Refused, market: Market) -> None:
    elsewhere = urlunsplit(urlsplit(market.mongodb_url)._replace(path="/another_shop"))
    refused("source_missing", CONFIGURATION, "another_shop", PRODUCT_SERVICE_MONGODB_URL=elsewhere)
    with MongoClient[dict[str, Any]](market.mongodb_url) as client:
        client.get_default_database()["products"].rename("goods")
    refused("source_missing", CONFIGURATION, "products", "goods", PRODUCT_SERVICE_MONGODB_URL=market.mongodb_url)


def test_a_wrong_password_and_a_wrong_database_of_the_target_are_told(refused: Refused, market: Market) -> None:
    with role(market.cart_url, password="another-one") as clerk:
        url = clerk.url.replace("another-one", PASSWORD)
        refused("access_denied", NOT_ATTEMPTED, clerk.name, "CART_DB_URL", CART_DB_URL=url)
    url = urlunsplit(urlsplit(market.cart_url)._replace(path="/no_such_cart"))
    refused("configuration", CONFIGURATION, "no_such_cart", "CART_DB_URL", CART_DB_URL=url)


def test_a_role_without_insert_is_told_what_to_grant(refused: Refused, market: Market) -> None:
    with role(market.cart_url, "GRANT SELECT, UPDATE ON product TO {}") as clerk:
        grant = f'GRANT INSERT ON "public"."product" TO "{clerk.name}";'
        report = refused("access_denied", NOT_ATTEMPTED, grant, CART_DB_URL=clerk.url)
    assert report.as_json()["missing"] == 1, "what was found before is still told"
    assert report.error
    assert "INSERT on id, title" in report.error.message
    assert "DELETE" not in report.error.message, "it is not needed, so it is not asked for"


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

    @pytest.mark.parametrize("command", ["sync", "validate", "stats", "doctor"])
    def test_bad_usage_is_answered_in_json_too(self, market: Market, command: str) -> None:
        outcome = market.run(command, "--json", "--no-such-option")
        assert outcome.status == CONFIGURATION
        assert "--no-such-option" in outcome.error["message"]
        assert f"product-sync {command} --help" in outcome.error["hint"]


def test_an_alert_url_that_cannot_be_used_is_shown_by_doctor_without_its_token(refused: Refused) -> None:
    refused(
        "configuration", CONFIGURATION, "PRODUCT_SYNC_ALERT_URLS, URL 1 of 2 (slack://…)", run=api.doctor,
        PRODUCT_SYNC_ALERT_URLS=f"slack://{PASSWORD} json://h/{PASSWORD}",
    )  # fmt: skip


def test_an_alert_setting_that_cannot_be_is_shown_by_doctor(refused: Refused) -> None:
    refused(
        "configuration", CONFIGURATION, "PRODUCT_SYNC_UI_URL", run=api.doctor, PRODUCT_SYNC_UI_URL="dagster.example"
    )
