"""`product-sync` as programs use it: each command a process, the last line of its standard output one JSON object.

The commands of a day run once for the whole module; each test looks at one promise.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from product_sync.embedded.servers import Servers
from product_sync.terminal.text import moment
from product_sync_tests.market import Market, Outcome, open_market, product, products

SYNC_KEYS = (
    "sync", "run_id", "plan_id", "scope", "dry_run", "compared", "events", "lag_s", "position_at", "unsettled",
    "full_proof_at", "source_count", "filtered_out", "filtered_out_about", "target_count", "missing", "changed",
    "extra", "inserted", "updated", "deleted", "conflicts", "skipped_since_plan", "taken_back", "kept_referenced",
    "excluded", "quarantined", "quarantined_by_reason", "found_by_column", "in_flight", "batches", "failed_batches",
    "not_attempted_batches", "duration_s", "estimated_s", "no_estimate_because", "lacking", "would_pass",
    "predicted_checks", "sample_product", "exclusions", "drift_report", "valid",
)  # fmt: skip
VALIDATE_KEYS = (
    "sync", "valid", "source_count", "target_count", "missing_in_target", "changed", "extra_in_target",
    "quarantined", "quarantined_by_reason", "found_by_column", "missing_ids", "changed_ids", "extra_ids",
)  # fmt: skip
STATS_KEYS = (
    "sync", "source_count", "target_count", "last_sync_at", "last_sync_run_id", "position_at", "unsettled",
    "full_proof_at",
)  # fmt: skip
DOCTOR_KEYS = ("sync", "mongodb", "postgres", "settings_problems", "alerts", "alert_problems", "sample_product")
CONNECTION_KEYS = (
    "host", "database", "collection", "schema", "table_name",
    "reachable", "error", "version", "latency_ms", "privileges", "lacking", "replica_set", "table", "notes",
)  # fmt: skip

MISSING, CHANGED, IN_BOTH = 25, 6, 100


@dataclass(frozen=True)
class Day:
    """What the commands of the day answered, and what lay in the databases and in the state folder in between."""

    stats_before: Outcome
    dry_run: Outcome
    sync: Outcome
    second_sync: Outcome
    dry_run_after: Outcome
    validation: Outcome
    stats_after: Outcome
    rows: tuple[dict[str, tuple[Any, ...]], ...]
    remembered: tuple[dict[str, bytes], ...]
    began: datetime


@pytest.fixture(scope="module")
def market(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    with open_market(servers, tmp_path_factory.mktemp("day") / "state") as opened:
        yield opened


@pytest.fixture(scope="module")
def day(market: Market) -> Day:
    """25 products are missing, 6 have another price, one cannot be copied; 94 are as they should be."""
    catalogue = products(IN_BOTH + MISSING)
    market.stock([*catalogue, product(7000, price="a lot")])
    market.copy([{**each, "price": 1} for each in catalogue[:CHANGED]] + catalogue[CHANGED:IN_BOTH])
    began = datetime.now(UTC)
    stats_before = market.run("stats", "--json")
    rows, remembered = [market.rows()], [market.remembered()]

    def sync(*arguments: str) -> Outcome:
        outcome = market.run("sync", "--json", "--batch-size", "10", "--delay-ms", "0", *arguments)
        rows.append(market.rows())
        remembered.append(market.remembered())
        return outcome

    dry_run, first, second, dry_run_after = sync("--dry-run"), sync(), sync(), sync("--dry-run")
    return Day(
        stats_before,
        dry_run,
        first,
        second,
        dry_run_after,
        market.run("validate", "--json"),
        market.run("stats", "--json"),
        tuple(rows),
        tuple(remembered),
        began,
    )


def test_every_answer_has_exactly_the_promised_keys_in_their_order(day: Day) -> None:
    for outcome in (day.dry_run, day.sync, day.second_sync):
        assert tuple(outcome.answer) == SYNC_KEYS
    assert tuple(day.validation.answer) == VALIDATE_KEYS
    assert tuple(day.stats_before.answer) == tuple(day.stats_after.answer) == STATS_KEYS


def test_standard_output_holds_the_answer_alone(day: Day) -> None:
    for outcome in (day.stats_before, day.dry_run, day.sync, day.validation):
        assert len(outcome.stdout.splitlines()) == 1


def test_standard_error_holds_the_progress_alone(day: Day) -> None:
    lines = day.sync.stderr.splitlines()
    assert any(line.startswith("load: ") and "31/31 (100 %)" in line for line in lines), lines
    assert all(" rows/s" in line for line in lines), lines
    assert day.stats_before.stderr == ""


class TestDryRun:
    def test_it_counts_exactly_what_was_planted(self, day: Day) -> None:
        answer = day.dry_run.answer
        assert day.dry_run.status == 0
        assert answer["dry_run"] is True
        assert (answer["source_count"], answer["target_count"]) == (126, 100)
        assert (answer["missing"], answer["changed"], answer["extra"]) == (MISSING, CHANGED, 0)
        assert (answer["quarantined"], answer["batches"]) == (1, 4)

    def test_it_estimates_the_time_and_judges_nothing(self, day: Day) -> None:
        assert day.dry_run.answer["estimated_s"] > 0
        assert day.dry_run.answer["valid"] is None

    def test_it_writes_nothing(self, day: Day) -> None:
        assert day.rows[1] == day.rows[0]
        assert day.rows[4] == day.rows[3]

    def test_it_leaves_quarantine_and_baseline_alone(self, day: Day) -> None:
        assert day.remembered[1] == day.remembered[0] == {}
        assert day.remembered[4] == day.remembered[3] != {}

    def test_it_is_no_sync_in_the_statistics(self, day: Day) -> None:
        assert day.dry_run_after.status == 0
        assert day.stats_after.answer["last_sync_run_id"] == day.second_sync.answer["run_id"]


class TestSync:
    def test_it_repairs_exactly_what_differs(self, day: Day) -> None:
        answer = day.sync.answer
        assert day.sync.status == 0
        assert (answer["missing"], answer["changed"], answer["extra"]) == (MISSING, CHANGED, 0)
        assert (answer["inserted"], answer["updated"], answer["deleted"]) == (MISSING, CHANGED, 0)
        assert (answer["batches"], answer["failed_batches"], answer["not_attempted_batches"]) == (4, 0, 0)
        assert answer["conflicts"] == answer["taken_back"] == answer["kept_referenced"] == answer["in_flight"] == 0
        assert answer["quarantined"] == 1
        assert answer["valid"] is True
        assert answer["dry_run"] is False
        assert answer["duration_s"] > 0

    def test_rows_that_agreed_are_not_touched(self, day: Day) -> None:
        before, after = day.rows[1], day.rows[2]
        assert {key for key in before if before[key] == after[key]} == {f"p{number:04}" for number in range(6, 100)}
        assert len(after) == IN_BOTH + MISSING

    def test_the_second_one_writes_nothing(self, day: Day) -> None:
        answer = day.second_sync.answer
        assert day.second_sync.status == 0
        assert day.rows[3] == day.rows[2]
        assert [answer[name] for name in ("missing", "changed", "inserted", "updated", "batches")] == [0, 0, 0, 0, 0]
        assert answer["valid"] is True

    def test_its_run_is_in_the_history_under_the_id_that_it_gave(self, day: Day) -> None:
        assert day.sync.answer["run_id"] != day.second_sync.answer["run_id"]
        assert day.stats_after.answer["last_sync_run_id"] == day.second_sync.answer["run_id"]


def test_validation_agrees_and_leaves_the_quarantined_out(day: Day) -> None:
    answer = day.validation.answer
    assert day.validation.status == 0
    assert answer["valid"] is True
    assert (answer["source_count"], answer["target_count"], answer["quarantined"]) == (126, 125, 1)
    assert (answer["missing_in_target"], answer["changed"], answer["extra_in_target"]) == (0, 0, 0)
    assert answer["missing_ids"] == answer["changed_ids"] == answer["extra_ids"] == []


def test_before_the_first_sync_there_is_none_in_the_statistics(day: Day) -> None:
    assert day.stats_before.status == 0
    assert list(day.stats_before.answer.values()) == ["product", 126, 100, *[None] * 5]


def test_statistics_say_when_the_last_sync_ended_in_utc(day: Day) -> None:
    last = datetime.fromisoformat(day.stats_after.answer["last_sync_at"])
    assert last.tzinfo is not None
    assert day.began < last < datetime.now(UTC)


def test_an_overdue_sync_ends_with_status_1_and_still_says_what_is_known(day: Day, market: Market) -> None:
    assert market.run("stats", "--json", "--max-age", "1d").status == 0
    overdue = market.run("stats", "--json", "--max-age", "0s")
    assert overdue.status == 1
    assert overdue.error["code"] == "sync_overdue"
    assert overdue.answer["last_sync_at"] == day.stats_after.answer["last_sync_at"]
    assert moment(overdue.answer["last_sync_at"]) in overdue.error["message"]


def test_another_target_has_not_been_synced(day: Day, market: Market, cart_url: str, product_table: str) -> None:
    outcome = market.run("stats", "--json", CART_DB_URL=cart_url)
    assert list(outcome.answer.values()) == ["product", 126, 0, *[None] * 5]


def test_doctor_looks_at_both_connections(day: Day, market: Market) -> None:
    outcome = market.run("doctor", "--json")
    mongodb, postgres = outcome.answer["mongodb"], outcome.answer["postgres"]
    assert outcome.status == 0
    assert tuple(outcome.answer) == DOCTOR_KEYS
    assert tuple(mongodb) == tuple(postgres) == CONNECTION_KEYS
    assert mongodb["reachable"] is postgres["reachable"] is True
    assert mongodb["version"] == "6.0.5"
    assert int(postgres["version"].partition(".")[0]) >= 13
    assert mongodb["latency_ms"] > 0
    assert postgres["latency_ms"] > 0
    assert mongodb["replica_set"] == "product_sync"
    assert mongodb["privileges"] == ["find", "listCollections"]
    assert postgres["privileges"] == ["SELECT", "INSERT", "UPDATE", "DELETE"]
    assert mongodb["lacking"] == postgres["lacking"] == []
    assert postgres["table"] == {
        "id": "text", "title": "text", "price": "integer", "image": "text", "sellerId": "text", "quantity": "integer",
    }  # fmt: skip


def test_help_is_there_at_once() -> None:
    """Importing Dagster, Arrow or a driver costs a second each; only who needs them should wait for them."""
    heavy = {"dagster", "pyarrow", "pandas", "pymongo", "psycopg", "sqlalchemy", "rich", "yaml", "pydantic"}
    script = (
        "import sys; from product_sync.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.stderr.write('\\n'.join({name.partition('.')[0] for name in sys.modules}))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.startswith("Usage: product-sync")
    assert heavy.isdisjoint(shown.stderr.split())
