"""Objects as json and jsonb, and arrays: copied and compared as values, repaired, or quarantined with the place."""

from __future__ import annotations

import datetime as dt
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from bson import Decimal128, ObjectId, Regex

from product_sync import api
from product_sync.orchestration.build import build_definitions
from product_sync.schema.definition import SyncDefinition
from product_sync_tests.market import Market

pytestmark = pytest.mark.usefixtures("in_memory")

QUICK: dict[str, Any] = {"settle_seconds": 0, "batch_delay_ms": 0, "batch_size": 1_000, "quarantine_budget": 1}
SYNC = SyncDefinition.model_validate(
    {
        "name": "item",
        "source": {"collection": "products"},
        "target": {"table": "item"},
        "columns": {
            "id": {"source": "_id"},
            "facts": {"source": "facts", "required": False},
            "notes": {"source": "notes", "default": {"none": True}},
            "tags": {"source": "tags", "default": []},
            "prices": {"source": "prices", "required": False},
            "seen": {"source": "seen", "required": False},
            "sellers": {"source": "sellers", "kind": "reference", "required": False},
        },
    }
)
OID = ObjectId("507f1f77bcf86cd799439011")
NOON = dt.datetime(2024, 1, 31, 12, tzinfo=dt.UTC)
FACTS = {"size": [1, 2.50, {"unit": "cm"}], "by": OID, "at": NOON, "": None}
READ = "SELECT id, facts::text, notes::text, tags::text, prices::text, sellers::text FROM item ORDER BY id"


@pytest.fixture
def shop(market: Market, monkeypatch: pytest.MonkeyPatch) -> Market:
    market.enter(monkeypatch)
    market.sql(
        "CREATE TABLE item (id text PRIMARY KEY, facts jsonb, notes json NOT NULL, tags text[] NOT NULL,"
        " prices numeric(8,2)[], seen timestamptz[], sellers uuid[])"
    )
    market.sql("ALTER TABLE item ALTER sellers TYPE text[] USING NULL")
    return market


def item(row_id: str, **changes: object) -> dict[str, Any]:
    return {"_id": row_id, "facts": FACTS, "notes": {"b": 1, "a": [True]}, "tags": ["red", "dark blue"],
            "prices": [9.99, Decimal128("1.50"), None], "seen": [NOON], "sellers": [OID, 7]} | changes  # fmt: skip


ROW = (
    '{"": null, "at": "2024-01-31T12:00:00.000Z", "by": "507f1f77bcf86cd799439011", "size": [1, 2.5, {"unit": "cm"}]}',
    '{"a": [true], "b": 1}',
    '{red,"dark blue"}',
    "{9.99,1.50,NULL}",
    "{507f1f77bcf86cd799439011,7}",
)
#: What other clients may put there: the same value, written otherwise.
SAME = {
    "facts": """facts || '{"size":[1.0,2.500,{"unit":"cm"}]}'""",
    "notes": """'{"b" : 1.00, "a":[true],"b":1e0}'""",
    "prices": "'{9.990,1.5,NULL}'",
    "seen": "'{2024-01-31 17:45:00+05:45}'",
}  # fmt: skip
#: Other values, also such as no document has.
OTHER = {
    "facts": ["NULL", "'null'", "'{}'", "facts - ''", "jsonb_set(facts, '{size,0}', '\"1\"')", "to_jsonb(facts::text)"],
    "notes": ["'{}'", r"""'{"a": "\u0000"}'""", r"""'"\ud83d"'""", "'1e200000'", "'null'"],
    "tags": ["'{}'", "'{dark blue,red}'", "'{red,NULL}'", "'{{red,dark blue}}'", "'[0:1]={red,dark blue}'"],
    "prices": ["NULL", "'{9.99,1.50}'", "'{9.99,1.51,NULL}'", "'{NaN,1.50,NULL}'", "'[2:4]={9.99,1.50,NULL}'"],
    "seen": ["'{infinity}'", "'{294276-12-31 23:59:59Z}'", "'{2024-01-31 12:00:00.000001Z}'", "'{NULL}'", "'{}'"],
    "sellers": ["'{507F1F77BCF86CD799439011,7}'"],
}  # fmt: skip


def test_values_are_copied_compared_and_repaired(shop: Market) -> None:
    ids = [f"p{number:03}" for number in range(300)]
    shop.stock([item(row_id) for row_id in ids])
    shop.stock([{"_id": "p999"}, {"_id": "pnull", "facts": None, "tags": None}, item("ptop", facts="text", notes=5)])
    first = api.sync(SYNC, **QUICK).raise_for_error()
    assert (first.inserted, first.valid) == (303, True)
    rows = {row_id: values for row_id, *values in shop.sql(READ)}
    assert all(tuple(rows[row_id]) == ROW for row_id in ids)
    assert rows["p999"] == rows["pnull"] == [None, '{"none": true}', "{}", None, None]
    assert rows["ptop"][:2] == ['"text"', "5"]

    for place, (column, value) in enumerate(SAME.items()):
        shop.sql(f"UPDATE item SET {column} = {value} WHERE id = '{ids[place]}'")
    before = shop.sql("SELECT xmin::text, id FROM item ORDER BY id")
    again = api.sync(SYNC, **QUICK).raise_for_error()
    assert (again.changed, again.updated, again.valid) == (0, 0, True)
    assert shop.sql("SELECT xmin::text, id FROM item ORDER BY id") == before

    changes = [(column, value) for column, values in OTHER.items() for value in values]
    for place, (column, value) in enumerate(changes):
        shop.sql(f"UPDATE item SET {column} = {value} WHERE id = 'p{100 + place}'")
    preview = api.sync(SYNC, dry_run=True, **QUICK).raise_for_error()
    assert preview.changed == len(changes)
    report = api.show("p107", sync=SYNC)
    assert [(each.column, each.source, each.target) for each in report.differences or ()] == [
        ("notes", '{"a": [true], "b": 1}', 'not jsonb: {"a": "\\u0000"}')
    ]
    frame = build_definitions((SYNC,)).load_asset_value("item_diff", instance=dg.DagsterInstance.ephemeral())
    assert isinstance(frame, pd.DataFrame)
    assert list(frame["new_tags"]) == [ROW[2]] * len(changes)
    second = api.sync(SYNC, **QUICK).raise_for_error()
    assert (second.updated, second.conflicts, second.valid) == (len(changes), 0, True)
    assert all(tuple(values) == ROW for row_id, *values in shop.sql(READ) if row_id in ids[100:])


#: By column: a value that it cannot hold, and the reason and the place in the quarantine.
BAD: tuple[tuple[str, object, str, str], ...] = (
    ("facts", {"a": [Regex("x")]}, "not_json", ".a[0]: {"),
    ("facts", {"a": {"b": float("inf")}}, "not_finite", ".a.b: {"),
    ("notes", "x\0", "nul_character", '"x\\u0000"'),
    ("tags", ["a", 5], "wrong_type", "[1]: {"),
    ("tags", "red", "wrong_type", '"red"'),
    ("prices", [1, 2.555], "not_exact", "[1]: {"),
    ("sellers", [1.5], "wrong_type", "[0]: {"),
)


def test_what_a_column_cannot_hold_is_quarantined_with_its_place(shop: Market) -> None:
    shop.stock([item(f"p{number:03}") for number in range(100)])
    shop.stock([item(f"q{place}", **{column: value}) for place, (column, value, *_) in enumerate(BAD)])
    report = api.sync(SYNC, **QUICK)
    assert (report.inserted, report.quarantined) == (100, len(BAD))
    entries = {entry.id: entry.defects[0] for entry in api.quarantine(sync=SYNC).entries}
    for place, (column, _, reason, start) in enumerate(BAD):
        defect = entries[f"q{place}"]
        assert (defect.column, defect.reason) == (column, reason)
        assert defect.value.startswith(start)
