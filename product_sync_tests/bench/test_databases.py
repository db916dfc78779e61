"""Checks the target before a run, and the counts during one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from product_sync.embedded.servers import Servers
from product_sync_bench.catalogue import Catalogue, ensure
from product_sync_bench.databases import CHANGED, DRIFTED, EMPTY, EQUAL, Target, source_url
from product_sync_bench.verification import Verdict, shape, verify, write_expected

CATALOGUE = Catalogue(1_000)


@pytest.fixture(scope="module")
def target(servers: Servers) -> Iterator[Target]:
    ensure(source_url(servers, CATALOGUE), CATALOGUE)
    made = Target(servers, CATALOGUE)
    made.make_templates()
    yield made
    made.close()


def judged(servers: Servers, target: Target, file: Path) -> Verdict:
    digest = write_expected(source_url(servers, CATALOGUE), file)
    with psycopg.connect(target.url) as connection:
        before = shape(connection)
    return verify(target.url, file, digest, before)


def test_the_equal_target_equals_the_source(servers: Servers, target: Target, tmp_path: Path) -> None:
    target.begin(EQUAL, "")
    assert judged(servers, target, tmp_path / "expected") == Verdict()


def test_the_drifted_target_has_lost_one_in_a_thousand_and_changed_one_in_a_hundred(
    servers: Servers, target: Target, tmp_path: Path
) -> None:
    target.begin(DRIFTED, "")
    assert judged(servers, target, tmp_path / "expected") == Verdict(missing=1, differing=10)


def test_in_the_changed_target_every_row_differs(servers: Servers, target: Target, tmp_path: Path) -> None:
    target.begin(CHANGED, "")
    assert judged(servers, target, tmp_path / "expected") == Verdict(differing=1_000)


def test_a_run_finds_nothing_of_the_run_before(servers: Servers, target: Target, tmp_path: Path) -> None:
    target.begin(EQUAL, "DROP TABLE cart_item")
    with psycopg.connect(target.url) as connection:
        connection.execute("DELETE FROM product")
    target.begin(EQUAL, "")
    assert judged(servers, target, tmp_path / "expected") == Verdict()


def test_templates_are_made_once(target: Target) -> None:
    target.begin(EMPTY, "CREATE VIEW seen AS SELECT id FROM product")
    target.make_templates()
    with psycopg.connect(target.url) as connection:
        assert connection.execute("SELECT count(*) FROM seen").fetchone() == (0,)


def test_what_a_run_writes_is_counted(target: Target) -> None:
    target.begin(EMPTY, "")
    with target.feeling() as felt, psycopg.connect(target.url) as connection:
        row = CATALOGUE.row(0)
        connection.execute("INSERT INTO product VALUES (%s, %s, %s, %s, %s, %s)", row)
        connection.execute("UPDATE product SET price = price + 1")
        connection.execute("CREATE TABLE staging AS SELECT * FROM product")
    # The three above, BEGIN and COMMIT.
    assert felt.statements == 5
    assert (felt.inserted, felt.updated, felt.deleted) == (1, 1, 0)
    assert felt.rows_written >= 3
    assert felt.wal_bytes > 0


def test_lost_events_are_planted_and_not_counted(servers: Servers, target: Target, tmp_path: Path) -> None:
    target.begin(EQUAL, "")
    target.lose_events([CATALOGUE.row(number)[0] for number in range(3)])
    with target.feeling() as felt:
        verdict = judged(servers, target, tmp_path / "expected")
    assert (verdict.differing, felt.updated, felt.rows_written) == (3, 0, 0)


def test_nothing_written_is_counted_as_nothing(target: Target) -> None:
    target.begin(EQUAL, "")
    with target.feeling() as felt, psycopg.connect(target.url) as connection:
        connection.execute("SELECT count(*) FROM product")
    assert (felt.inserted, felt.updated, felt.deleted, felt.rows_written) == (0, 0, 0, 0)
    assert felt.target_read_bytes > 100_000


def test_what_is_read_from_the_source_is_counted(servers: Servers, target: Target, tmp_path: Path) -> None:
    target.begin(EQUAL, "")
    with target.feeling() as felt:
        write_expected(source_url(servers, CATALOGUE), tmp_path / "expected")
    assert felt.source_bytes > 1_000 * 150
    assert felt.source_calls >= 1
