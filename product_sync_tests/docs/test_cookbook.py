"""Every entry of the cookbook makes the rows that it shows, of the documents, table and mapping that it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from bson import json_util
from psycopg import sql

from product_sync import api
from product_sync.embedded.servers import Servers
from product_sync_tests.docs.pages import Section, page
from product_sync_tests.market import Market, open_market

ENTRIES = page("cookbook.md").sections


@pytest.fixture(scope="module")
def kitchen(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """The same databases for all entries."""
    with open_market(servers, tmp_path_factory.mktemp("cookbook") / "state") as market:
        yield market


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_makes_the_rows_that_it_shows(
    name: str, kitchen: Market, history: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = ENTRIES[name]
    [documents, table, mapping] = [
        fence.text for language in ("json", "sql", "yaml") for fence in entry.fences if fence.language == language
    ]
    kitchen.enter(monkeypatch)
    kitchen.sql("DROP TABLE product")
    kitchen.sql(table)
    kitchen.unstock({})
    kitchen.stock(json_util.loads(documents))
    file = tmp_path / "mapping.yaml"
    file.write_text(mapping)

    report = api.sync(mapping=file, instance=history, settle_seconds=0, batch_delay_ms=0, quarantine_budget=1)

    found = rows(kitchen)
    assert (report.valid, len(found)) == (True, len(shown(entry))), report
    for row, expected in zip(found, shown(entry), strict=True):
        assert {name: "…" if expected[name] == "…" else cell for name, cell in row.items()} == expected
    quarantined = dict(re.findall(r"^Quarantined: `(\w+)` as `(\w+)`\.$", entry.text, re.MULTILINE))
    assert report.quarantined == len(quarantined)
    if quarantined:
        reasons = {each.id: each.defects[0].reason for each in api.quarantine(mapping=file).entries}
        assert reasons == quarantined


def test_the_cookbook_has_what_people_ask_for() -> None:
    assert len(ENTRIES) >= 12


def shown(entry: Section) -> list[dict[str, str]]:
    [table] = entry.tables
    return [{name: cell.strip("`") for name, cell in row.items()} for row in table]


def rows(market: Market) -> list[dict[str, str]]:
    """The table as texts, its columns as they are declared, ordered by them."""
    with psycopg.connect(market.cart_url, options="-c TimeZone=UTC") as connection:
        names = [column.name for column in connection.execute("SELECT * FROM product LIMIT 0").description or ()]
        columns = sql.SQL(", ").join(
            sql.SQL("COALESCE({}::text, 'NULL')").format(sql.Identifier(name)) for name in names
        )
        found = connection.execute(sql.SQL("SELECT {} FROM product AS p ORDER BY p").format(columns)).fetchall()
    return [dict(zip(names, row, strict=True)) for row in found]
