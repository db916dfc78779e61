"""What is promised of the state, in a folder and on a real S3 server."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from product_sync.pipeline.sides import find_by_sides, note_sides
from product_sync.state.drift_history import PastDrift, add_to_history
from product_sync.state.files import join, opened, pages, read_metadata, row_count
from product_sync.state.store import (
    BASELINE,
    PLAN,
    QUARANTINE,
    RunFiles,
    StateFolder,
    has_plan,
    keys_with,
    read_json,
)
from product_sync_tests.tables import write_table

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def drift(run_id: str) -> PastDrift:
    return PastDrift(run_id, "2030-01-01", 1, 0, 0, 0, 0)


def damage(folder: StateFolder, name: str, content: bytes) -> None:
    """Give a file that is replaced this content, as a disk or a person could."""

    def change(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(content)

    folder.replaced(name).replace(change)


def test_another_process_reads_the_files_of_a_run(root: Path, elsewhere: Path) -> None:
    files = StateFolder(root, "key").begin("run", NOW)
    shard = RunFiles(files.folder / "shards" / "3")
    files.write_json("source.json", {"documents": 5})
    shard.write_json("diff.json", {"missing": 2})
    files.publish()
    other = StateFolder(elsewhere, "key").begin("run", NOW)
    assert other.has("source.json")
    assert not other.has("load.json")
    assert other.read_json("source.json") == {"documents": 5}
    assert RunFiles(other.folder / "shards" / "3").read_json("diff.json") == {"missing": 2}
    assert other.size("source.json") == (files.folder / "source.json").stat().st_size
    other.write_json("load.json", {"inserted": 1})
    other.publish()
    again = StateFolder(root, "key").begin("run", NOW)
    assert again.read_json("load.json") == {"inserted": 1}


def test_a_table_of_shards_is_counted_elsewhere_without_its_rows_and_then_read(
    root: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("product_sync.state.mirror._SMALL_BYTES", 1_000)
    files = StateFolder(root, "key").begin("run", NOW)
    parts = [pa.table({"id": [f"{shard}-{number}" for number in range(1_000)]}) for shard in range(2)]
    for number, rows in enumerate(parts):
        path = files.shard(number).path("source.arrow")
        write_table(path, rows.schema, rows.to_batches(), metadata={"run_id": "run"})
    join(files.path("source.arrow"), [files.shard(number).path("source.arrow") for number in range(2)])
    files.publish()
    other = StateFolder(elsewhere, "key").begin("run", NOW)
    first = other.shard(0).path("source.arrow")
    assert (row_count(first), read_metadata(first)["run_id"]) == (1_000, "run")
    assert row_count(other.path("source.arrow")) == 2_000
    assert root == elsewhere or not first.exists(), "only its metadata was read"
    with opened(other.path("source.arrow")) as file:
        assert pa.Table.from_batches(pages(file)) == pa.concat_tables(parts)


def test_a_step_that_is_repeated_elsewhere_replaces_what_it_has_left(root: Path, elsewhere: Path) -> None:
    files = StateFolder(root, "key").begin("run", NOW)
    files.write_json("source.json", {"documents": 5})
    files.publish()
    again = StateFolder(elsewhere, "key").begin("run", NOW)
    again.write_json("source.json", {"documents": 6})
    again.publish()
    found = StateFolder(elsewhere, "key").newest("source.json")
    assert found is not None
    assert found.read_json("source.json") == {"documents": 6}


def test_a_file_is_looked_for_in_the_newest_run_that_has_it(root: Path, elsewhere: Path) -> None:
    folder = StateFolder(root, "key")
    for number in (1, 2):
        files = folder.begin(f"run{number}", NOW)
        files.write_json("diff.json", {"number": number})
        files.publish()
    folder.begin("without", NOW)
    found = StateFolder(elsewhere, "key").newest("diff.json")
    assert found is not None
    assert found.read_json("diff.json") == {"number": 2}
    assert StateFolder(elsewhere, "key").newest("load.json") is None
    assert keys_with(elsewhere, "diff.json") == ["key"]


def test_states_of_two_keys_do_not_meet(root: Path, elsewhere: Path) -> None:
    one, other = StateFolder(root, "one"), StateFolder(elsewhere, "other")
    one.write_baseline(10, "run1")
    assert other.read_baseline() is None
    assert StateFolder(elsewhere, "one").read_baseline() == 10
    assert keys_with(elsewhere, BASELINE) == ["one"]


def test_a_plan_is_found_when_it_is_whole(root: Path, elsewhere: Path) -> None:
    plan, seen = StateFolder(root, "key").plan("id"), StateFolder(elsewhere, "key")
    plan.write_json("diff.json", {})
    assert not seen.plan("id").has(PLAN)
    assert not has_plan(elsewhere, "id")
    plan.write_json(PLAN, {"extra": "report"})
    plan.publish()
    assert seen.plan("id").read_json(PLAN) == {"extra": "report"}
    assert has_plan(elsewhere, "id")


def test_the_newest_folder_of_two_sides_is_noted(root: Path, elsewhere: Path) -> None:
    for key in ("one", "other", "one"):
        note_sides(StateFolder(root, key), "sides")
        found = find_by_sides(elsewhere, "sides")
        assert found is not None
        assert found.key == key
    assert find_by_sides(elsewhere, "another") is None


def test_a_drift_report_can_be_read_and_concluded_elsewhere(root: Path, elsewhere: Path) -> None:
    StateFolder(root, "key").write_report("run", "a page")
    assert StateFolder(elsewhere, "key").report("run").read_text() == "a page"
    StateFolder(elsewhere, "key").write_report("run", "a page and its end")
    assert not StateFolder(elsewhere, "key").report("none").exists()


def test_the_history_of_drift_goes_back_so_many_runs_and_has_each_run_once(
    root: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("product_sync.state.drift_history.KEPT_HISTORY", 3)
    folder = StateFolder(root, "key")
    for number in range(5):
        add_to_history(folder, drift(f"run{number}"))
    history = add_to_history(StateFolder(elsewhere, "key"), drift("run4"))
    assert [run.run_id for run in history] == ["run2", "run3", "run4"]


def test_of_two_writers_at_once_neither_loses_what_the_other_has_added(root: Path, elsewhere: Path) -> None:
    def add(place: Path, name: str) -> None:
        for number in range(5):
            add_to_history(StateFolder(place, "key"), drift(f"{name}{number}"))

    threads = [threading.Thread(target=add, args=each) for each in ((root, "a"), (elsewhere, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = add_to_history(StateFolder(root, "key"), drift("last"))
    assert len(history) == 11
    assert {run.run_id for run in history} == {"last"} | {f"{name}{number}" for name in "ab" for number in range(5)}


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"source_count": null}'])
def test_a_damaged_baseline_is_replaced_by_the_largest_count_of_the_last_runs(
    root: Path, elsewhere: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    folder = StateFolder(root, "key")
    for number, documents in enumerate((90, 100, 12)):
        files = folder.begin(f"run{number}", NOW)
        files.write_json("source.json", {"documents": documents})
        files.publish()
    damage(folder, BASELINE, content)
    with caplog.at_level(logging.WARNING, "product_sync"):
        assert StateFolder(elsewhere, "key").read_baseline() == 100, "a source that has shrunk must not look complete"
    assert "The baseline was damaged" in caplog.text
    assert read_json(folder.replaced(BASELINE).read()) == {"source_count": 100, "run_id": "run1"}


def test_a_damaged_quarantine_is_left_out_until_it_is_replaced(
    root: Path, elsewhere: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, other = StateFolder(root, "key"), StateFolder(elsewhere, "key")
    rows = pa.table({"source_key": ["a"]})
    damage(folder, "quarantine.arrow", b"ARROW1 and no more")
    with caplog.at_level(logging.WARNING, "product_sync"):
        assert other.sound_quarantine() is None
    assert "The quarantine was damaged" in caplog.text
    other.replaced(QUARANTINE).replace(lambda path: write_table(path, rows.schema, rows.to_batches(), metadata={}))
    found = folder.sound_quarantine()
    assert found is not None
    assert found.read_bytes() == other.quarantine.read_bytes()


def test_a_content_that_was_taken_away_is_gone_elsewhere_too(root: Path, elsewhere: Path) -> None:
    StateFolder(root, "key").write_baseline(10, "run")
    assert StateFolder(elsewhere, "key").read_baseline() == 10
    StateFolder(root, "key").replaced(BASELINE).replace(lambda path: path.unlink())
    assert StateFolder(elsewhere, "key").read_baseline() is None
    StateFolder(elsewhere, "key").write_baseline(11, "run")
    assert StateFolder(root, "key").read_baseline() == 11
