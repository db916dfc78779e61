"""`product-sync quarantine`: every document that cannot be copied, why, and what to do; no database is asked."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from bson import ObjectId

from product_sync import api
from product_sync import quarantine as quarantine_function
from product_sync.compare.quarantine import merge, rejects_batch
from product_sync.compare.quarantine_reasons import ADVICE
from product_sync.embedded.servers import Servers
from product_sync.pipeline.sides import SIDES
from product_sync.results import QuarantineListing
from product_sync.schema.records import Defect, IdType, Reason, Reject, SourceId, Stage
from product_sync_tests.market import Market, open_market, product, products
from product_sync_tests.pseudo_terminal import on_terminal
from product_sync_tests.row_schemas import TEXT, row_schema_of
from product_sync_tests.tables import write_table

OBJECT_ID = ObjectId("65a000000000000000000001")
NOBODY = "postgresql://reader:sesame@127.0.0.1:1/cart"


@pytest.fixture(scope="module")
def market(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """Two syncs have left four documents in quarantine, one of them with two reasons and one without an id."""
    with (
        open_market(servers, tmp_path_factory.mktemp("quarantine") / "state") as opened,
        pytest.MonkeyPatch.context() as patch,
    ):
        opened.enter(patch)
        opened.sql("ALTER TABLE product ADD CONSTRAINT fair CHECK (quantity < 1000)")
        opened.stock(
            [
                *products(10),
                product(1, _id=OBJECT_ID, price="a lot", title=None),
                product(2, _id="it's", price=1.5),
                product(3, _id=2.5),
                product(4, _id="many", quantity=5000),
            ]
        )
        with dg.DagsterInstance.ephemeral() as instance:
            for _ in range(2):
                api.sync(instance=instance, batch_delay_ms=0, quarantine_budget=1.0).raise_for_error()
        yield opened


def listed(market: Market, monkeypatch: pytest.MonkeyPatch, *reasons: str) -> QuarantineListing:
    market.enter(monkeypatch)
    return api.quarantine(reasons=reasons).raise_for_error()


def test_each_entry_has_all_that_is_wrong_and_its_history(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = listed(market, monkeypatch)
    found = {entry.source_key: entry for entry in listing.entries}
    assert (listing.total, listing.matching, len(found)) == (4, 4, 4)
    assert listing.by_reason == {
        "missing_field": 1, "not_exact": 1, "refused_by_database": 1, "unsupported_id": 1, "wrong_type": 1,
    }  # fmt: skip
    assert listing.advice == {code: ADVICE[Reason(code)] for code in listing.by_reason}
    ring = found['{"$oid": "65a000000000000000000001"}']
    assert (ring.id, ring.id_type, ring.stage, ring.attempts) == (str(OBJECT_ID), "objectId", "convert", 2)
    assert {(defect.column, defect.reason, defect.value) for defect in ring.defects} == {
        ("title", "missing_field", "null"),
        ("price", "wrong_type", '"a lot"'),
    }
    assert ring.run_id == listing.run_id
    assert datetime.fromisoformat(ring.first_seen) < datetime.fromisoformat(ring.last_seen) < datetime.now(UTC)
    assert found['{"$numberDouble": "2.5"}'].id is None
    assert "fair" in found['"many"'].defects[0].value
    assert list(listing.entries) == list(listing.entries), "they can be read again"
    assert quarantine_function is api.quarantine


def test_a_reason_chooses_documents_and_keeps_all_that_is_wrong_with_them(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = listed(market, monkeypatch, "wrong_type", "not_exact")
    assert (listing.total, listing.matching) == (4, 2)
    assert list(listing.advice or ()) == ["not_exact", "wrong_type"]
    assert sorted(len(entry.defects) for entry in listing.entries) == [1, 2]
    unknown = api.quarantine(reasons=["wrong_typ"])
    assert unknown.exit_status == 2
    assert "There is no reason 'wrong_typ'. The reasons are: unsupported_id, duplicate_id" in str(unknown.failure)


def test_it_is_there_when_both_databases_are_down(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is found by what the addresses say, whoever logs in; other addresses have another quarantine."""
    market.enter(monkeypatch)
    monkeypatch.setattr("product_sync.pipeline.databases.reflect", lambda *_: pytest.fail("the target was asked"))
    scheme, _, rest = market.cart_url.partition("://")
    monkeypatch.setenv("CART_DB_URL", f"{scheme}://somebody:sesame@{rest.rpartition('@')[2]}")
    assert api.quarantine().total == 4
    monkeypatch.undo()
    market.enter(monkeypatch)
    monkeypatch.setenv("CART_DB_URL", NOBODY)
    other = api.quarantine()
    assert (other.total, other.error and other.error.code) == (None, "unreachable")


def test_a_state_folder_of_an_older_version_is_found_by_asking_the_target(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    [note] = market.state.glob(f"{SIDES}/*.json")
    text = note.read_text()
    try:
        for damaged in ("{", None):
            note.write_text(damaged) if damaged else note.unlink()
            assert listed(market, monkeypatch).total == 4
    finally:
        note.write_text(text)


def test_where_no_sync_has_been_there_is_nothing(
    market: Market, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from product_sync.terminal.quarantine import show_quarantine

    market.enter(monkeypatch)
    monkeypatch.setenv("PRODUCT_SYNC_STATE", str(tmp_path))
    listing = api.quarantine()
    assert (listing.exit_status, listing.total, listing.by_reason, list(listing.entries)) == (0, 0, {}, [])
    show_quarantine(listing)
    assert capsys.readouterr().out == "No sync of these two sides has recorded a quarantine yet.\n"
    show_quarantine(QuarantineListing(total=0, run_id="r1"))
    assert capsys.readouterr().out == "No document is in quarantine.\n"


class TestTheCommand:
    """As a process of its own."""

    def test_on_a_terminal_it_shows_whole_ids_reasons_and_advice(self, market: Market) -> None:
        shown = on_terminal("product_sync.cli", "quarantine", env=market.env, columns=60)
        assert shown.status == 0
        assert f"  {OBJECT_ID}  (objectId)" in shown.lines
        assert """  'it'"'"'s'  (string)""" in shown.lines
        assert """  '{"$numberDouble": "2.5"}'""" in shown.lines
        assert '      price: wrong_type: "a lot"' in shown.lines
        assert f"  not_exact: {ADVICE[Reason.NOT_EXACT]}" in shown.lines
        assert any(line.startswith("4 in quarantine. By reason: missing_field: 1, ") for line in shown.lines)
        assert any(line.endswith(" UTC, in 2 runs") for line in shown.lines)
        assert shown.lines[-2:-1] == ["Everything about one of them:"]

    def test_json_is_one_line_and_the_same_as_the_function_answers(
        self, market: Market, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outcome = market.run("quarantine", "--json")
        assert (outcome.status, len(outcome.stdout.splitlines())) == (0, 1)
        assert outcome.answer == listed(market, monkeypatch).as_json()
        assert list(outcome.answer) == list(QuarantineListing().as_json())

    def test_csv_has_a_line_for_each_column_that_fails(self, market: Market) -> None:
        outcome = market.run("quarantine", "--csv", "--reason", "wrong_type")
        rows = list(csv.DictReader(io.StringIO(outcome.stdout)))
        assert [(row["id"], row["column"], row["reason"], row["value"]) for row in rows] == [
            (str(OBJECT_ID), "title", "missing_field", "null"),
            (str(OBJECT_ID), "price", "wrong_type", '"a lot"'),
        ]
        assert {row["attempts"] for row in rows} == {"2"}

    def test_a_mistake_is_answered_in_json_too(self, market: Market) -> None:
        outcome = market.run("quarantine", "--json", "--reason", "typo")
        assert (outcome.status, outcome.error["code"], outcome.answer["entries"]) == (2, "configuration", [])
        assert market.run("quarantine", "--json", "--csv").status == 2

    def test_a_reader_that_has_seen_enough_is_no_error_of_ours(self, market: Market) -> None:
        line = f"{sys.executable} -m product_sync.cli quarantine --csv | head -n 1"
        ended = subprocess.run(
            ["bash", "-c", line], env=market.env, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.stdout.startswith("id,id_type,source_key,stage,column,reason,value,first_seen,last_seen,")
        assert ended.stderr == ""


def test_memory_does_not_grow_with_the_quarantine(tmp_path: Path) -> None:
    """40,000 entries are 15 MB of JSON; as objects all at once they would need 60."""
    row_schema = row_schema_of({"title": TEXT})
    path, count = tmp_path / "quarantine.arrow", 40_000

    def pages() -> Iterator[pa.RecordBatch]:
        for start in range(0, count, 10_000):
            rejects = [
                Reject(f'"p{n}"', SourceId(IdType.STRING, f"p{n}"), (Defect("title", Reason.WRONG_TYPE, "x" * 200),))
                for n in range(start, start + 10_000)
            ]
            yield rejects_batch(row_schema, rejects, Stage.CONVERT)

    write_table(tmp_path / "rejects", rejects_batch(row_schema, [], Stage.CONVERT).schema, pages(), metadata={})
    merge(None, [tmp_path / "rejects"], path, now=datetime.now(UTC), run_id="r")
    script = (
        "import resource, sys; from pathlib import Path; from product_sync.results import QuarantineListing\n"
        "from product_sync.support.quarantine_listing import StoredEntries\n"
        "from product_sync.support.quarantine_listing import write_csv, write_json\n"
        "listing = QuarantineListing(entries=StoredEntries(Path(sys.argv[1]), frozenset()))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for write in (write_csv, write_json): write(listing, open(sys.argv[2], 'w'))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(tmp_path / "json")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert len(json.loads((tmp_path / "json").read_text())["entries"]) == count
    assert int(done.stdout) < 20_000, "kB"
