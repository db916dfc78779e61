"""Dates, local times, padded texts, enums, citext and domains: copied exactly or quarantined, compared, repaired."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from bson import ObjectId

from product_sync_tests.citext import create_citext
from product_sync_tests.market import Market
from product_sync_tests.shop import project
from product_sync_tests.targets.postgres_tables import role

SYNC = (
    "sync",
    "--json",
    "--settle-seconds",
    "0",
    "--batch-size",
    "1000",
    "--delay-ms",
    "0",
    "--quarantine-budget",
    "1",
)
COLUMNS: dict[str, dict[str, Any]] = {
    "id": {"source": "_id"},
    "day": {"source": "day", "required": False},
    "there": {"source": "there", "zone": "America/Sao_Paulo", "required": False},
    "clock": {"source": "clock", "zone": "Europe/Berlin", "required": False},
    "code": {"source": "code"},
    "mood": {"source": "mood", "default": "draft"},
    "email": {"source": "email", "required": False},
    "sku": {"source": "sku"},
}
READ = f"SELECT {', '.join(f'{name}::text' for name in COLUMNS)} FROM public.item"


@pytest.fixture
def market_of_types(market: Market) -> Market:
    """A table ``item`` whose types are in schemas that the role's search_path does not have."""
    market.sql("CREATE SCHEMA ext")
    market.sql('CREATE SCHEMA "else where"')
    create_citext(market.cart_url, schema="ext")
    market.sql("""CREATE TYPE "else where"."Mood" AS ENUM ('draft', 'on sale', 'On sale')""")
    market.sql("CREATE DOMAIN public.code AS varchar(6) CHECK (VALUE <> 'no')")
    market.sql("CREATE DOMAIN public.sku AS public.code NOT NULL")
    market.sql(
        "CREATE TABLE item (id char(24) PRIMARY KEY, day date, there date, clock timestamp, code char(4) NOT NULL,"
        ' mood "else where"."Mood" NOT NULL, email ext.citext UNIQUE, sku public.sku)'
    )
    [(database,)] = market.sql("SELECT current_database()")
    market.sql(f'ALTER DATABASE "{database}" SET search_path = nowhere')
    mapping = market.state.parent / "mapping.yaml"
    mapping.write_text(
        json.dumps({"source": {"collection": "products"}, "target": {"table": "item"}, "columns": COLUMNS})
    )
    market.env["PRODUCT_SYNC_MAPPING"] = str(mapping)
    return market


def item(number: int, **changes: object) -> dict[str, Any]:
    day = dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=number)
    return {
        "_id": ObjectId(f"{number:024x}"),
        "day": day if number % 2 else f"{day:%Y-%m-%d}",
        "there": day + dt.timedelta(hours=3),
        "clock": day + dt.timedelta(hours=12, milliseconds=5),
        "code": f" {number % 1000}",
        "mood": ("on sale", "On sale")[number % 2],
        "email": f"shop{number}@x.org",
        "sku": f"S{number}",
    } | changes


def row(number: int) -> tuple[str, ...]:
    day = dt.date(2024, 1, 1) + dt.timedelta(days=number)
    hour = 14 if dt.date(2024, 3, 31) <= day < dt.date(2024, 10, 27) else 13
    return (
        f"{number:024x}", f"{day}", f"{day}", f"{day} {hour}:00:00.005", f" {number % 1000}",
        ("on sale", "On sale")[number % 2], f"shop{number}@x.org", f"S{number}",
    )  # fmt: skip


#: For each column, what another client has put there: it differs from every value that the source can have.
FOREIGN = {
    "day": ("infinity", "-infinity", "0044-03-15 BC", "12024-01-01", "5874897-12-31"),
    "there": ("infinity", "0001-01-01 BC"),
    "clock": ("infinity", "-infinity", "0044-03-15 12:00 BC", "12024-01-01 00:00", "294276-12-31 23:59:59.999999"),
    "code": ("x", ""),
    "mood": ("draft",),
    "email": ("SHOP15@X.ORG", "Shop16@x.org"),
    "sku": ("other",),
}


def test_every_type_is_copied_compared_and_repaired(market_of_types: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    market = market_of_types
    market.stock([item(number) for number in range(300)])
    first = market.run(*SYNC)
    assert (first.status, first.answer["inserted"], first.answer["valid"]) == (0, 300, True), first.everything
    assert sorted(market.sql(READ)) == [row(number) for number in range(300)]
    again = market.run(*SYNC).answer
    assert (again["inserted"], again["updated"], again["valid"]) == (0, 0, True)

    number = 0
    for column, values in FOREIGN.items():
        for value in values:
            market.sql(f"UPDATE public.item SET {column} = '{value}' WHERE id = '{number:024x}'")
            number += 1
    # Two rows hold each other's unique value, in another letter case.
    for place, other in ((100, "x"), (101, "SHOP100@x.org"), (100, "Shop101@x.org")):
        market.sql(f"UPDATE public.item SET email = '{other}' WHERE id = '{place:024x}'")
    dry = market.run(*SYNC, "--dry-run")
    assert (dry.status, dry.answer["changed"]) == (0, number + 2), dry.everything
    shown = market.run("show", f"{3:024x}", "--json").answer
    assert [(each["column"], each["source"]) for each in shown["differences"]] == [("day", "2024-01-04")]
    assert market.run("show", f"{0:024x}", "--json").answer["differences"][0]["target"] == "infinity"

    second = market.run(*SYNC, "--plan", dry.answer["plan_id"])
    assert (second.status, second.answer["updated"], second.answer["valid"]) == (0, number + 2, True), second.everything
    assert sorted(market.sql(READ)) == [row(number) for number in range(300)]

    report = Path(second.answer["drift_report"]).read_text()
    assert all(shown in report for shown in ("infinity", "days since 1970", "microseconds since 1970", "shop100@x.org"))

    market.enter(monkeypatch)
    frame = project().load_asset_value("product_diff", instance=dg.DagsterInstance.ephemeral())
    assert isinstance(frame, pd.DataFrame)
    assert (len(frame), str(frame["old_day"].dtype), str(frame["new_clock"].dtype)) == (
        number + 2,
        "datetime64[ms]",
        "datetime64[us]",
    )
    assert str(frame.set_index("id")["new_day"].max())[:10] == "2024-04-11"


#: By id: a document with one value that its column cannot hold, and the column and the reason in the quarantine.
BAD: tuple[tuple[str, object, str], ...] = (
    ("day", dt.datetime(2024, 1, 1, 0, 0, 0, 1000, tzinfo=dt.UTC), "not_exact"),
    ("day", "2024-1-1", "wrong_type"),
    ("there", dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "not_exact"),
    ("clock", dt.datetime(2024, 10, 27, 0, 30, tzinfo=dt.UTC), "not_exact"),
    ("clock", dt.datetime(2024, 10, 27, 1, 30, tzinfo=dt.UTC), "not_exact"),
    ("clock", "2024-10-27T01:30:00Z", "wrong_type"),
    ("code", "a ", "not_exact"),
    ("code", "abcde", "too_long"),
    ("mood", "ON SALE", "not_in_enum"),
    ("email", "a\0", "nul_character"),
    ("sku", "S12345678", "too_long"),
    ("sku", "no", "refused_by_database"),
    ("_id", "blank ", "not_exact"),
    ("_id", "x" * 25, "too_long"),
)


def test_what_a_column_cannot_hold_is_quarantined_by_its_reason(market_of_types: Market) -> None:
    market = market_of_types
    market.stock([item(number) for number in range(20)])
    market.stock([item(1000 + place, **{column: value}) for place, (column, value, _) in enumerate(BAD)])
    run = market.run(*SYNC)
    assert (run.answer["inserted"], run.answer["quarantined"]) == (20, len(BAD)), run.everything
    entries = market.run("quarantine", "--json").answer["entries"]
    found = sorted((defect["column"], defect["reason"]) for entry in entries for defect in entry["defects"])
    expected = (("id" if column == "_id" or "refused" in reason else column, reason) for column, _, reason in BAD)
    assert found == sorted(expected)

    market.sql("""ALTER TYPE "else where"."Mood" ADD VALUE 'ON SALE'""")
    assert market.run(*SYNC).answer["inserted"] == 1
    assert market.run("show", "blank ", "--json").answer["state"] == "quarantined"


def test_a_role_that_may_not_use_the_schema_of_a_type_is_told_the_grant(market_of_types: Market) -> None:
    market = market_of_types
    market.stock([item(number) for number in range(20)])
    with role(market.cart_url, "GRANT SELECT, INSERT, UPDATE ON public.item TO {}") as user:
        error = market.run(*SYNC, CART_DB_URL=user.url).error
        assert (error["code"], "USAGE on schema else where; USAGE on schema ext" in error["message"]) == (
            "access_denied",
            True,
        )
        market.sql(error["hint"])
        allowed = market.run(*SYNC, CART_DB_URL=user.url)
        assert (allowed.status, allowed.answer["inserted"]) == (0, 20), allowed.everything


def test_a_key_of_citext_is_refused_and_everything_unsupported_is_named_at_once(market_of_types: Market) -> None:
    market = market_of_types
    market.stock([item(1)])
    market.sql("ALTER TABLE public.item DROP id, ADD id ext.citext PRIMARY KEY")
    error = market.run(*SYNC).error
    assert (error["code"], "item.id has the type ext.citext, which cannot hold an id" in error["message"]) == (
        "table",
        True,
    )
    market.sql("ALTER TABLE public.item DROP day, DROP there, ALTER clock TYPE timestamp(2), DROP code, ADD code money")
    error = market.run(*SYNC).error
    for named in ("'day'", "'there'", "code has the type money", "clock has the type timestamp(2) without time zone"):
        assert named in error["message"]
