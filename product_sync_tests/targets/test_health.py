"""The health check finds what would stop a sync, also with a role that may only read."""

from __future__ import annotations

import pytest

from product_sync.errors import TableError
from product_sync.schema.addresses import TargetAddress
from product_sync.targets.postgres.health import ForeignKey, Privileges, health
from product_sync.targets.postgres.lock import lock_holder
from product_sync.targets.postgres.writer import PostgresWriter
from product_sync_tests.targets.postgres_tables import execute, other_sessions, role, row_schema_of

ALL = Privileges(select=True, insert=True, update=True, delete=True, lacking=())


def test_a_healthy_target_lacks_nothing(cart_url: str, product_table: str) -> None:
    found = health(TargetAddress(cart_url), row_schema_of(cart_url))
    assert found.privileges == ALL
    assert found.server.version.split(".")[0].isdecimal()
    assert 0.01 < found.server.latency_ms < 60_000, "milliseconds"
    assert found.server.role == "postgres"
    assert (found.server.in_recovery, found.problem) == (False, None)
    assert (found.triggers, found.foreign_keys, found.lock_holder) == ((), (), None)


def test_what_a_role_lacks_is_named(cart_url: str, product_table: str) -> None:
    execute(cart_url, "REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    row_schema = row_schema_of(cart_url, not_updated=["quantity"])
    with role(cart_url, 'GRANT SELECT, INSERT (id, title, price, image, "sellerId") ON product TO {}') as user:
        assert health(TargetAddress(user.url), row_schema).privileges == Privileges(
            select=False,
            insert=False,
            update=False,
            delete=False,
            lacking=(
                "USAGE on schema public",
                "INSERT on quantity",
                "UPDATE on title, price, image, sellerId",
            ),
            schemas=("public",),
        )


def test_grants_on_columns_suffice_and_unmapped_columns_need_none(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url, not_updated=["quantity"])
    execute(cart_url, "ALTER TABLE product ADD secret text")
    columns = 'id, title, price, image, "sellerId", quantity'
    with role(
        cart_url,
        f"GRANT SELECT ({columns}), INSERT ({columns}) ON product TO {{}}",
        'GRANT UPDATE (title, price, image, "sellerId") ON product TO {}',
    ) as user:
        found = health(TargetAddress(user.url), row_schema)
    assert found.privileges == Privileges(select=True, insert=True, update=True, delete=False, lacking=())


def test_triggers_of_users_are_named_and_those_of_constraints_are_not(cart_url: str, product_table: str) -> None:
    trigger = "CREATE TRIGGER {} BEFORE INSERT ON product EXECUTE FUNCTION f()"
    execute(
        cart_url,
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        trigger.replace("{}", "enabled"),
        trigger.replace("{}", "disabled"),
        "ALTER TABLE product DISABLE TRIGGER disabled",
        "CREATE TABLE cart_item (product text REFERENCES product)",
    )
    assert health(TargetAddress(cart_url), row_schema_of(cart_url)).triggers == ("enabled",)


def test_foreign_keys_are_named_with_what_a_deletion_would_do(cart_url: str, product_table: str) -> None:
    actions = ["NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT"]
    for number, action in enumerate(actions):
        execute(cart_url, f"CREATE TABLE c{number} (p text CONSTRAINT k{number} REFERENCES product ON DELETE {action})")
    found = health(TargetAddress(cart_url), row_schema_of(cart_url)).foreign_keys
    assert found == tuple(ForeignKey(f"k{number}", f"c{number}", action) for number, action in enumerate(actions))
    assert [key.cascading for key in found] == [False, False, True, True, True]


def test_partitions_count_as_the_table(cart_url: str) -> None:
    execute(
        cart_url,
        "CREATE TABLE p (id text PRIMARY KEY, n int) PARTITION BY HASH (id)",
        "CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        "CREATE TABLE c (p text CONSTRAINT k REFERENCES p ON DELETE CASCADE)",
        "CREATE TABLE c0 (p text CONSTRAINT k0 REFERENCES p0 ON DELETE CASCADE)",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER t BEFORE INSERT ON p0 FOR EACH ROW EXECUTE FUNCTION f()",
    )
    found = health(TargetAddress(cart_url), row_schema_of(cart_url, "p"))
    assert [key.name for key in found.foreign_keys] == ["k", "k0"]
    assert found.triggers == ("t",)


def test_row_level_security_is_shown(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    execute(cart_url, "ALTER TABLE product ENABLE ROW LEVEL SECURITY")
    assert health(TargetAddress(cart_url), row_schema).problem is None, "a superuser sees all rows"
    with role(cart_url, "GRANT ALL ON product TO {}") as user:
        assert "Row-level security" in str(health(TargetAddress(user.url), row_schema).problem)


def test_a_sync_that_is_running_is_shown_also_to_a_role_that_sees_little(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    assert lock_holder(TargetAddress(cart_url), row_schema.table) is None
    with role(cart_url) as user, PostgresWriter(TargetAddress(cart_url), row_schema, run_id="0a1b2c3d-running"):
        for url in (cart_url, user.url):
            holder = lock_holder(TargetAddress(url), row_schema.table)
            assert holder is not None
            assert holder.startswith("product_sync 0a1b2c3d ")
            assert ("connected since" in holder) == (url == cart_url)
        assert health(TargetAddress(cart_url), row_schema).lock_holder == lock_holder(
            TargetAddress(cart_url), row_schema.table
        )
    assert other_sessions(cart_url, 0)
    assert lock_holder(TargetAddress(cart_url), row_schema.table) is None


def test_a_table_that_went_away_is_named(cart_url: str, product_table: str) -> None:
    row_schema = row_schema_of(cart_url)
    execute(cart_url, "DROP TABLE product")
    with pytest.raises(TableError, match=r"public\.product does not exist any more"):
        health(TargetAddress(cart_url), row_schema)
