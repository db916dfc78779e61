"""The grants of docs/privileges.md are enough, and each is needed: its statements are executed, and syncs run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from pymongo import MongoClient

from product_sync import api
from product_sync.results import SyncReport
from product_sync.runtime.progress import Progress
from product_sync.schema.addresses import TargetAddress
from product_sync.targets.postgres.pressure import PostgresPressure
from product_sync_tests.market import Market, product, products
from product_sync_tests.sources.private_mongod import private_mongod

pytestmark = pytest.mark.usefixtures("in_memory")

PAGE = (Path(__file__).parents[1] / "docs" / "privileges.md").read_text()
ROLES = ("product_sync", "product_sync_columns", "product_sync_reader")
SYNC, COLUMNS, READER = ROLES

As = Callable[[str], None]


def statements(name: str) -> list[str]:
    """The statements of the page's SQL that begins with the comment ``-- name``."""
    blocks = re.findall(r"```sql\n-- (.*?)\n(.*?)```", PAGE, re.DOTALL)
    [block] = [text for heading, text in blocks if heading == name]
    return [statement.strip() for statement in block.split(";") if statement.strip()]


def password_of(role: str) -> str:
    [found] = re.findall(rf"CREATE ROLE {role} LOGIN PASSWORD '(.*?)'", PAGE)
    return str(found)


@pytest.fixture
def execute(market: Market) -> Iterator[Callable[..., None]]:
    """Executes parts of the page as the database's owner. The test's database stands for ``cart``."""
    database = urlsplit(market.cart_url).path[1:]

    def run(*names: str) -> None:
        for name in names:
            for statement in statements(name):
                market.sql(statement.replace("DATABASE cart", f"DATABASE {database}"))

    market.sql("REVOKE CONNECT ON DATABASE " + database + " FROM PUBLIC")
    market.sql("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    yield run
    for role in ROLES:
        if market.sql("SELECT 1 FROM pg_roles WHERE rolname = %s", role):
            market.sql(f"DROP OWNED BY {role}")
            market.sql(f"DROP ROLE {role}")


@pytest.fixture
def as_role(market: Market, monkeypatch: pytest.MonkeyPatch) -> As:
    """Lets the functions of this process come as a role of the page."""

    def enter(role: str) -> None:
        parts = urlsplit(market.cart_url)
        netloc = f"{role}:{password_of(role)}@{parts.hostname}:{parts.port}"
        market.env["CART_DB_URL"] = urlunsplit(parts._replace(netloc=netloc))
        market.enter(monkeypatch)

    return enter


def sync(**switches: Any) -> SyncReport:
    return api.sync(**{"batch_delay_ms": 0, "settle_seconds": 0.0, **switches})


@pytest.fixture
def drift(market: Market) -> None:
    """Of three products one is missing, one changed and one right; one more is in the target only."""
    market.stock(products(3))
    market.copy([product(0), product(1, price=1), product(9)])


@pytest.mark.usefixtures("drift")
@pytest.mark.parametrize(("name", "role"), [("sync", SYNC), ("columns", COLUMNS)])
def test_a_sync_needs_no_more_than_the_page_says(
    market: Market, execute: Callable[..., None], as_role: As, caplog: pytest.LogCaptureFixture, name: str, role: str
) -> None:
    caplog.set_level("INFO")
    execute(name, "nothing else")
    as_role(role)
    for right in ("TEMPORARY", "CREATE"):
        assert market.sql("SELECT has_database_privilege(%s, current_database(), %s)", role, right) == [(False,)]
    assert market.sql("SELECT has_schema_privilege(%s, 'public', 'CREATE')", role) == [(False,)]
    report = sync(pacing="adaptive").raise_for_error()
    assert (report.inserted, report.updated, report.extra, report.valid) == (1, 1, 1, True)
    assert market.rows().keys() == {"p0000", "p0001", "p0002", "p0009"}
    assert "cannot see: active sessions and replica lag" in caplog.text
    market.stock([product(3)])
    assert sync(dry_run=True).raise_for_error().estimated_s, "a batch was tried and rolled back"


@pytest.mark.usefixtures("drift")
@pytest.mark.parametrize("right", ["SELECT", "INSERT", "UPDATE"])
def test_each_of_the_rights_is_needed(market: Market, execute: Callable[..., None], as_role: As, right: str) -> None:
    execute("sync")
    market.sql(f"REVOKE {right} ON product FROM {SYNC}")
    as_role(SYNC)
    before = market.rows()
    report = sync()
    assert report.failure is not None
    assert (report.failure.code, report.exit_status) == ("access_denied", 3)
    assert right in str(report.failure)
    assert market.rows() == before


@pytest.mark.usefixtures("drift")
def test_a_failing_connect_or_usage_names_the_way_out(
    market: Market, execute: Callable[..., None], as_role: As
) -> None:
    execute("sync")
    market.sql(f"REVOKE USAGE ON SCHEMA public FROM {SYNC}")
    as_role(SYNC)
    failure = sync().failure
    assert failure is not None
    assert failure.exit_status in (2, 3)
    assert "public" in str(failure)


@pytest.mark.usefixtures("drift")
class TestDelete:
    def test_without_it_extra_products_are_not_deleted_and_nothing_is_written(
        self, market: Market, execute: Callable[..., None], as_role: As
    ) -> None:
        execute("sync")
        as_role(SYNC)
        before = market.rows()
        report = sync(extra="delete", max_delete_share=1.0)
        assert report.failure is not None
        assert (report.failure.code, report.exit_status) == ("access_denied", 3)
        assert f'GRANT DELETE ON "public"."product" TO "{SYNC}";' in report.failure.hint
        assert market.rows() == before

    def test_with_it_they_are(self, market: Market, execute: Callable[..., None], as_role: As) -> None:
        execute("sync", "delete")
        as_role(SYNC)
        assert sync(extra="delete", max_delete_share=1.0).raise_for_error().deleted == 1
        assert market.rows().keys() == {"p0000", "p0001", "p0002"}

    @pytest.mark.parametrize("granted", [True, False])
    def test_a_product_that_is_deleted_while_it_is_inserted(
        self,
        market: Market,
        execute: Callable[..., None],
        as_role: As,
        caplog: pytest.LogCaptureFixture,
        granted: bool,
    ) -> None:
        execute("sync", *(["delete"] if granted else []))
        as_role(SYNC)

        def event(progress: Progress) -> None:
            if progress.stage == "read target":
                market.unstock({"_id": "p0002"})

        report = sync(on_progress=event)
        assert (report.inserted, report.taken_back) == (1, int(granted))
        assert ("p0002" in market.rows()) is not granted
        assert ("their rows stay" in caplog.text) is not granted


@pytest.mark.usefixtures("drift")
class TestReadOnly:
    def test_it_validates_and_makes_dry_runs(self, market: Market, execute: Callable[..., None], as_role: As) -> None:
        execute("read-only")
        as_role(READER)
        before = market.rows()
        report = sync(dry_run=True).raise_for_error()
        assert (report.missing, report.changed, report.extra, report.estimated_s) == (1, 1, 1, None)
        found = api.validate(settle_seconds=0)
        assert (found.valid, found.missing_ids, found.changed_ids) == (False, ["p0002"], ["p0001"])
        assert set(api.doctor().postgres.privileges or ()) == {"SELECT"}
        assert market.rows() == before

    def test_a_sync_is_refused_before_anything_is_written(
        self, market: Market, execute: Callable[..., None], as_role: As
    ) -> None:
        execute("read-only")
        as_role(READER)
        before = market.rows()
        report = sync()
        assert report.failure is not None
        assert (report.failure.code, report.exit_status) == ("read_only", 3)
        assert "default_transaction_read_only" in report.failure.hint
        assert market.rows() == before

    def test_it_cannot_write_even_with_a_grant_to_everybody(
        self, market: Market, execute: Callable[..., None], as_role: As
    ) -> None:
        execute("read-only")
        market.sql("GRANT ALL ON product TO PUBLIC")
        as_role(READER)
        with (
            psycopg.connect(market.env["CART_DB_URL"]) as connection,
            pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
        ):
            connection.execute("DELETE FROM product")


def test_with_the_right_to_statistics_adaptive_pacing_sees_everything(
    market: Market, execute: Callable[..., None], as_role: As
) -> None:
    execute("sync", "statistics")
    as_role(SYNC)
    with PostgresPressure(TargetAddress(market.env["CART_DB_URL"])) as probe:
        assert probe.measure().unseen == ()


def test_reading_the_one_database_is_enough_on_the_source(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    [(database, definition)] = re.findall(r'db\.getSiblingDB\("(\w+)"\)\.createUser\((\{.*?\n\})\)', PAGE, re.DOTALL)
    user = json.loads(definition)
    with private_mongod("--auth") as server:
        with MongoClient[dict[str, Any]]("127.0.0.1", server.port) as client:
            client.admin.command("createUser", "root", pwd="root-of-the-test", roles=["root"])
        with MongoClient[dict[str, Any]](
            "127.0.0.1", server.port, username="root", password="root-of-the-test"
        ) as root:
            options = {name: value for name, value in user.items() if name != "user"}
            root[database].command("createUser", user["user"], **options)
            root[database]["products"].insert_many(products(2))
        market.env |= {
            "PRODUCT_SERVICE_MONGODB_URL": server.url(database),
            "MONGO_USER": user["user"],
            "MONGO_PASSWORD": user["pwd"],
        }
        market.enter(monkeypatch)
        assert api.doctor().mongodb.lacking == []
        assert sync().raise_for_error().valid
