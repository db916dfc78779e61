"""A table with the rows of several tenants: a sync reads and writes the rows of its own tenant only."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from product_sync import api
from product_sync.errors import MappingError, RowsExcluded, TableError
from product_sync.schema.addresses import TargetAddress
from product_sync.schema.definition import SyncDefinition, load_definitions
from product_sync.schema.obstacle import ObstacleKind
from product_sync.schema.row_schema import resolve_mapping
from product_sync.targets.postgres import binary, row_sql
from product_sync.targets.postgres.reader import PostgresReader
from product_sync.targets.postgres.reflection import reflect
from product_sync.targets.postgres.writer import PostgresWriter
from product_sync_tests.market import Market
from product_sync_tests.target_contract import write_batch

pytestmark = pytest.mark.usefixtures("in_memory")

QUICK: dict[str, Any] = {"settle_seconds": 0, "batch_delay_ms": 0}
DELETE: dict[str, Any] = {"extra": "delete", "max_delete_share": 1}
TENANTS = ("ABCDEF01-2345-6789-abcd-ef0123456789", "abcdef01-2345-6789-abcd-ef012345678a")
SLUGS = {f"p{number:03}": f"s{number}" for number in range(300)}


def mapping_of(tenant: object, **target: str) -> dict[str, Any]:
    return {
        "source": {"collection": "products"},
        "target": {"table": "item", **target},
        "columns": {"tenant": {"value": tenant}, "id": {"source": "_id"}, "slug": {"source": "slug"}},
    }


def tenant_sync(tenant: object) -> SyncDefinition:
    return SyncDefinition.model_validate(mapping_of(tenant))


def held(market: Market, tenant: object) -> dict[str, tuple[str, str]]:
    """The tenant's rows by id: slug, and ``xmin``, which a row that is written again changes."""
    found = market.sql("SELECT id::text, slug, xmin::text FROM item WHERE tenant::text = %s", str(tenant))
    return {row_id: (slug, xmin) for row_id, slug, xmin in found}


def slugs(market: Market, tenant: object) -> dict[str, str]:
    return {row_id: slug for row_id, (slug, _) in held(market, tenant).items()}


def test_a_sync_of_a_tenant_reads_and_writes_only_its_rows(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    market.enter(monkeypatch)
    market.sql("CREATE TABLE item (tenant int, id varchar(9), slug text, PRIMARY KEY (id, tenant))")
    market.stock([{"_id": row_id, "slug": slug} for row_id, slug in SLUGS.items()])
    market.sql("INSERT INTO item SELECT 77, 'p' || lpad(n::text, 3, '0'), 'theirs' FROM generate_series(200, 699) AS n")
    theirs, sync = held(market, 77), tenant_sync(7)

    preview = api.sync(sync, dry_run=True, **QUICK).raise_for_error()
    assert (preview.source_count, preview.target_count, preview.missing, preview.extra) == (300, 0, 300, 0)
    assert api.sync(sync, **QUICK).raise_for_error().inserted == 300
    assert slugs(market, 7) == SLUGS

    market.sql("UPDATE item SET slug = 'drifted' WHERE tenant = 7 AND id IN ('p000', 'p200')")
    market.sql("DELETE FROM item WHERE tenant = 7 AND id IN ('p001', 'p201')")
    market.sql("INSERT INTO item VALUES (7, 'p500', 'gone')")
    assert [api.show(row_id, sync=sync).state for row_id in ("p200", "p500", "p600")] == ["changed", "extra", "nowhere"]
    second = api.sync(sync, **QUICK, extra="delete", max_delete_share=0.004).raise_for_error()
    counts = (second.inserted, second.updated, second.deleted, second.source_count, second.target_count, second.valid)
    assert counts == (2, 2, 1, 300, 299, True), "one of 299 rows is at most 0.4 %"
    assert slugs(market, 7) == SLUGS
    assert held(market, 77) == theirs, "not written once"


@pytest.mark.parametrize(
    ("columns", "mine", "other"),
    [
        ("tenant text, id text, slug text, PRIMARY KEY (tenant, id)", "o'neil \\ 50%$1", "o'neil"),
        ("tenant varchar(3), id bigint, slug text, PRIMARY KEY (tenant, id)", "1", "10"),
        ("no serial PRIMARY KEY, tenant uuid NOT NULL, id text NOT NULL, slug text, UNIQUE (id, tenant)", *TENANTS),
        ("tenant char(3), id char(3), slug text, PRIMARY KEY (tenant, id)", "de", "fr"),
        ("tenant smallint, id text, slug text, PRIMARY KEY (tenant, id)", 0, 1),
        ("tenant text, id text UNIQUE, slug text, PRIMARY KEY (tenant, id)", "a", "b"),
    ],
)
def test_the_target_of_a_tenant_has_only_its_rows(cart_url: str, columns: str, mine: object, other: object) -> None:
    """Whatever the key looks like; with rows of two tenants, of which one id may be the same."""
    shared = "3" if "UNIQUE," in columns else "1"
    with psycopg.connect(cart_url) as connection:
        connection.execute(sql.SQL("CREATE TABLE item ({})").format(sql.SQL(columns)))
        insert = "INSERT INTO item (tenant, id, slug) VALUES (%s, %s, 'a')"
        connection.cursor().executemany(insert, [(mine, "1"), (mine, "2"), (other, shared), (other, "4")])
    row_schema = resolve_mapping(tenant_sync(mine), reflect(TargetAddress(cart_url), "public", "item"))
    reader = PostgresReader(TargetAddress(cart_url), row_schema)

    def row(row_id: str, slug: str) -> dict[str, Any]:
        return {"tenant": str(mine).lower() if isinstance(mine, str) else mine, "id": row_id, "slug": slug}

    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        batch = write_batch(
            row_schema,
            inserts=[row("5", "new"), row("2", "is there")],
            updates=[(row("1", "a"), row("1", "b")), (row("4", "a"), row("4", "b"))],
            deletes=[row("4", "a"), row("2", "a")],
        )
        written = writer.write(batch)
        assert (written.inserted, written.updated, written.deleted) == tuple(map(frozenset, ("5", "1", "2")))
        assert reader.fetch(["1", "4"]).to_pylist() == [row("1", "b")]
    batches = list(reader.snapshot())
    assert sorted(id_ for each in batches for id_ in each["id"].to_pylist()) == ["1", "5"]
    assert reader.count() == 2
    with psycopg.connect(cart_url) as connection:
        left = connection.execute("SELECT id::text, slug FROM item WHERE tenant = %s ORDER BY 1", [other]).fetchall()
    assert left == [(shared, "a"), ("4", "a")]


@pytest.mark.parametrize("key", ["tenant, id", "id, tenant"])
def test_the_index_of_the_key_serves_the_reads_and_writes_of_a_tenant(market: Market, key: str) -> None:
    market.sql(f"CREATE TABLE item (tenant text, id text, slug text, PRIMARY KEY ({key}))")
    market.sql("INSERT INTO item SELECT 't' || n % 50, 'p' || n, 's' FROM generate_series(1, 20000) AS n")
    market.sql("ANALYZE item")
    row_schema = resolve_mapping(tenant_sync("t7"), reflect(TargetAddress(market.cart_url), "public", "item"))
    assert PostgresReader(TargetAddress(market.cart_url), row_schema).estimated_count() == pytest.approx(400, rel=0.2)
    assert PostgresReader(TargetAddress(market.cart_url), row_schema).count() == 400
    with psycopg.connect(market.cart_url, cursor_factory=psycopg.RawCursor) as connection:
        binary.register(connection)
        ids = binary.ids([f"p{n}" for n in range(300)])

        def plan(statement: sql.Composed, *parameters: object) -> str:
            found = connection.execute(sql.SQL("EXPLAIN ") + statement, parameters)
            return "\n".join(line for (line,) in found)

        by_id = plan(row_sql.select_by_ids(row_schema), ids)
        [condition] = re.findall("Index Cond: (.*)", by_id)
        assert "(tenant = 't7'::text)" in condition
        assert "(id = ANY" in condition
        few = binary.ids(["p7", "p57"])
        assert "Seq Scan" not in plan(row_sql.update(row_schema), few, few, few)
        if key == "tenant, id":
            assert "Seq Scan" not in plan(row_sql.select_all(row_schema, row_sql.is_ours(row_schema)))


def test_a_row_of_another_tenant_in_the_way_is_named_and_stays(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    market.enter(monkeypatch)
    market.sql("CREATE TABLE item (tenant text, id text, slug text UNIQUE, parent text, PRIMARY KEY (tenant, id))")
    market.sql("INSERT INTO item VALUES ('b', 'p1', 's1'), ('b', 'p9', 's9'), ('a', 'p2', 's3'), ('a', 'p3', 's2')")
    market.sql("CREATE TABLE other (tenant text, id text, FOREIGN KEY (tenant, id) REFERENCES item)")
    market.stock([{"_id": f"p{number}", "slug": f"s{number}"} for number in (1, 2, 3)])
    theirs = held(market, "b")
    report = api.sync(tenant_sync("a"), **QUICK)
    assert (report.updated, report.inserted, report.excluded) == (2, 0, 1), report
    [kept_out] = report.exclusions or []
    assert (kept_out.id, kept_out.other, kept_out.constraint) == ("p1", None, "item_slug_key")
    assert "p1 is kept out by the row (b, p1), which this sync does not write, because of slug" in kept_out.message
    assert held(market, "b") == theirs
    assert slugs(market, "a") == {"p2": "s2", "p3": "s3"}

    market.sql("DELETE FROM item WHERE tenant = 'b' AND id = 'p1'")
    assert api.sync(tenant_sync("a"), **QUICK).raise_for_error().inserted == 1


def test_a_row_that_a_row_of_another_tenant_refers_to_is_not_deleted(cart_url: str) -> None:
    with psycopg.connect(cart_url) as connection:
        connection.execute("""
            CREATE TABLE item (tenant text, id text, slug text, of_tenant text, of_id text, PRIMARY KEY (tenant, id),
                               CONSTRAINT parent FOREIGN KEY (of_tenant, of_id) REFERENCES item);
            INSERT INTO item VALUES ('a', 'x', 's', NULL, NULL), ('a', 'y', 's', 'a', 'x'), ('b', 'x', 's', 'a', 'x')
        """)
    address = TargetAddress(cart_url)
    row_schema = resolve_mapping(tenant_sync("a"), reflect(address, "public", "item"))
    with PostgresWriter(address, row_schema, run_id="test") as writer:
        batch = write_batch(row_schema, deletes=[{"tenant": "a", "id": "x", "slug": "s"}])
        with pytest.raises(RowsExcluded):
            writer.write(batch)
        found = {(each.row, each.other, each.kind) for each in writer.obstacles(batch)}
    assert found == {("x", "y", ObstacleKind.REFERRING), ("x", "b, x", ObstacleKind.OUTSIDE)}


def test_syncs_of_two_tenants_share_a_table(market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    market.enter(monkeypatch)
    market.sql("CREATE TABLE item (tenant text, id text, slug text, PRIMARY KEY (id))")
    for name, tenant in (("one", "a"), ("two", "b"), ("three", "A")):
        (tmp_path / f"{name}.yaml").write_text(json.dumps(mapping_of(tenant)))
    with pytest.raises(MappingError, match=r"one\.yaml and .*three\.yaml both have the target table public\.item"):
        load_definitions({}, tmp_path)
    (tmp_path / "three.yaml").unlink()
    market.stock([{"_id": "p1", "slug": "s1"}])
    one, two = load_definitions({}, tmp_path)
    refused = api.sync(one, **QUICK).error
    assert refused is not None
    assert "Another sync of this project has the table public.item too" in refused.message
    assert "key (id) does not contain that column" in refused.message
    market.sql("ALTER TABLE item DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (tenant, id)")
    assert [api.sync(each, **QUICK).raise_for_error().inserted for each in (one, two)] == [1, 1]
    assert market.sql("SELECT * FROM item ORDER BY 1") == [("a", "p1", "s1"), ("b", "p1", "s1")]


@pytest.mark.parametrize("same", [1, 1.0, "1"])
def test_two_syncs_whose_tenants_one_column_takes_for_the_same_are_refused(same: object, tmp_path: Path) -> None:
    """An integer column takes 1.0 for 1: both syncs would have the same rows."""
    for name, tenant in (("one", 1), ("two", same)):
        (tmp_path / f"{name}.yaml").write_text(json.dumps(mapping_of(tenant)))
    with pytest.raises(MappingError, match=r"both have the target table public\.item"):
        load_definitions({}, tmp_path)


def test_the_hint_for_a_table_without_a_key_has_the_tenant_in_it(market: Market) -> None:
    market.sql("CREATE TABLE item (tenant text, id text, slug text)")
    for key in ("PRIMARY KEY", "SET NOT NULL, ADD UNIQUE"):
        with pytest.raises(TableError) as refused:
            resolve_mapping(tenant_sync("a"), reflect(TargetAddress(market.cart_url), "public", "item"))
        assert key in refused.value.hint
        market.sql(refused.value.hint)
        row_schema = resolve_mapping(tenant_sync("a"), reflect(TargetAddress(market.cart_url), "public", "item"))
        assert row_schema.key_names == ("tenant", "id")
        if key == "PRIMARY KEY":
            market.sql("ALTER TABLE item DROP CONSTRAINT item_pkey, ADD no serial PRIMARY KEY")
            market.sql("ALTER TABLE item ALTER tenant DROP NOT NULL")


def test_a_value_that_the_column_of_the_tenant_cannot_hold_is_refused(cart_url: str) -> None:
    with psycopg.connect(cart_url) as connection:
        connection.execute("CREATE TABLE item (tenant int, id text, slug text, PRIMARY KEY (tenant, id))")
    row_schema = resolve_mapping(tenant_sync("a"), reflect(TargetAddress(cart_url), "public", "item"))
    with pytest.raises(MappingError, match="The value of column 'tenant', 'a', does not fit integer"):
        PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test")
