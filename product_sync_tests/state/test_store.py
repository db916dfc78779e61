"""The state folder outlives a run: which files belong to which sync and run, and which are kept."""

from __future__ import annotations

import logging
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from product_sync.errors import ConfigurationError, LocalStorageError
from product_sync.pipeline.preconditions import require_local_storage
from product_sync.state.drift_history import PastDrift, add_to_history
from product_sync.state.files import ROW_GROUP_ROWS
from product_sync.state.replaced import KEPT_DAMAGED
from product_sync.state.retention import KEPT_REPORTS, KEPT_RUNS, KEPT_UNUSED
from product_sync.state.store import (
    StateFolder,
    read_json,
    write_json,
)
from product_sync_tests.state.test_access import as_another_user, reachable  # noqa: F401 - a fixture
from product_sync_tests.tables import write_table

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def begin(folder: StateFolder, number: int, age: timedelta) -> Path:
    """A run that gave its last sign of life ``age`` before `NOW`."""
    files = folder.begin(f"run{number}", NOW)
    files.write_json("diff.json", {"number": number})
    at = (NOW - age).timestamp()
    os.utime(files.path("diff.json"), (at, at))
    os.utime(files.folder, (at, at))
    return files.folder


def test_the_newest_runs_keep_their_files_and_older_ones_lose_them(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path, "key")
    made = [begin(folder, number, timedelta(hours=20 - number)) for number in range(8)]
    folder.begin("last", NOW)
    kept = [run.exists() for run in made]
    assert kept == [False] * (8 - KEPT_RUNS + 1) + [True] * (KEPT_RUNS - 1)


def test_a_run_that_gave_a_sign_of_life_within_the_hour_keeps_its_files(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path, "key")
    made = [begin(folder, number, timedelta(minutes=59 - number)) for number in range(12)]
    folder.begin("last", NOW)
    assert all(run.exists() for run in made)


def test_a_file_is_looked_for_in_the_newest_run_that_has_it(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path, "key")
    begin(folder, 1, timedelta(minutes=3))
    begin(folder, 2, timedelta(minutes=2))
    folder.begin("without", NOW)
    found = folder.newest("diff.json")
    assert found is not None
    assert found.read_json("diff.json") == {"number": 2}
    assert folder.newest("load.json") is None


def test_two_steps_of_one_run_take_turns(tmp_path: Path) -> None:
    files = StateFolder(tmp_path, "key").begin("run", NOW)
    inside = threading.Event()

    def step() -> None:
        with files.alone():
            inside.set()

    with files.alone():
        thread = threading.Thread(target=step)
        thread.start()
        assert not inside.wait(0.3)
    assert inside.wait(10)
    thread.join()


def test_a_state_folder_that_cannot_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="PRODUCT_SYNC_STATE"):
        StateFolder(tmp_path / "file", "key").begin("run", NOW)


def test_the_newest_drift_reports_are_kept_long_after_the_files_of_their_runs(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path, "key")
    for number in range(KEPT_REPORTS + 3):
        path = folder.write_report(f"run{number}", "a page")
        os.utime(path, (number, number))
    folder.write_report("last", "a page")
    kept = {path.stem for path in (folder.folder / "reports").glob("*.html")}
    assert len(kept) == KEPT_REPORTS
    assert {"last", f"run{KEPT_REPORTS + 2}"} <= kept
    assert "run3" not in kept


DAMAGED_JSON = (b"", b"\0" * 60, b'{"source_count": ', b"[]", b'{"source_count": null}')


@pytest.mark.parametrize("content", DAMAGED_JSON)
def test_a_damaged_baseline_is_set_aside_and_the_last_runs_stand_in_for_it(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    folder = StateFolder(tmp_path, "key")
    for number, documents in enumerate((90, 100, 12)):
        begin(folder, number, timedelta(minutes=number))
        folder.run(f"run{number}").write_json("source.json", {"documents": documents})
    (folder.folder / "baseline.json").write_bytes(content)
    with caplog.at_level(logging.WARNING, "product_sync"):
        assert folder.read_baseline() == 100, "a source that has shrunk to 12 must not look complete"
    [aside] = folder.folder.glob("baseline.json.damaged-*")
    assert aside.read_bytes() == content
    assert f"The baseline was damaged and has been set aside as {aside}." in caplog.text
    assert read_json(folder.folder / "baseline.json") == {"source_count": 100, "run_id": "run1"}


def test_a_damaged_baseline_that_nothing_can_stand_in_for_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = StateFolder(tmp_path, "key")
    begin(folder, 1, timedelta())
    folder.run("run1").path("source.json").touch()
    (folder.folder / "baseline.json").touch()
    with caplog.at_level(logging.WARNING, "product_sync"):
        assert folder.read_baseline() is None
    assert "cannot see that the source has shrunk" in caplog.text


@pytest.mark.parametrize("damage", ["empty", "cut", "in the middle"])
def test_a_damaged_quarantine_is_set_aside(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = StateFolder(tmp_path, "key")
    assert folder.sound_quarantine() is None
    rows = pa.table({"source_key": [f"{number:040}" for number in range(2 * ROW_GROUP_ROWS)]})
    write_table(folder.quarantine, rows.schema, rows.to_batches(), metadata={})
    assert folder.sound_quarantine() == folder.quarantine
    content = folder.quarantine.read_bytes()
    half = len(content) // 2
    overwritten = content[:half] + bytes(4_000) + content[half + 4_000 :]
    folder.quarantine.write_bytes({"empty": b"", "cut": content[:half], "in the middle": overwritten}[damage])
    with caplog.at_level(logging.WARNING, "product_sync"):
        assert folder.sound_quarantine() is None
    assert "The quarantine was damaged and has been set aside as" in caplog.text
    assert len(list(folder.folder.glob("quarantine.arrow.damaged-*"))) == 1


@pytest.mark.parametrize("content", ["", '{"runs": [{"missing": 1}]}', "{}"])
def test_a_damaged_history_of_drift_begins_anew(tmp_path: Path, content: str) -> None:
    folder = StateFolder(tmp_path, "key")
    path = folder.folder / "reports" / "history.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    drift = PastDrift("run", "2030-01-01", 1, 0, 0, 0, 0)
    assert add_to_history(folder, drift) == [drift]
    assert len(list(path.parent.glob("history.json.damaged-*"))) == 1


def test_a_file_that_may_not_be_read_is_not_taken_for_damaged(reachable: Path) -> None:  # noqa: F811 - the fixture
    folder = StateFolder(reachable, "key")
    folder.folder.mkdir()
    folder.quarantine.touch(mode=0)
    with as_another_user(), pytest.raises(PermissionError):
        folder.sound_quarantine()
    assert folder.quarantine.exists()


def test_a_damaged_file_of_a_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "diff.json").write_text("{")
    with pytest.raises(LocalStorageError, match=f"{tmp_path}/diff.json is damaged"):
        read_json(tmp_path / "diff.json")


def test_only_the_newest_damaged_files_are_kept(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path, "key")
    folder.folder.mkdir()
    for _ in range(KEPT_DAMAGED + 2):
        folder.quarantine.touch()
        assert folder.sound_quarantine() is None
    assert len(list(folder.folder.iterdir())) == KEPT_DAMAGED


def test_a_new_file_is_on_the_disk_before_it_has_its_name_and_so_is_the_name_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noting_fsync(descriptor: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().suffix or 'folder'}")
        fsync(descriptor)

    def noting_replace(path: Path, target: Path) -> Path:
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "replace", noting_replace)
    write_json(tmp_path / "folder" / "baseline.json", {"source_count": 1})
    assert done == ["sync .tmp", "rename", "sync folder"]


def test_what_killed_processes_and_unused_mappings_left_is_removed_in_time(tmp_path: Path) -> None:
    folder, other = StateFolder(tmp_path, "key"), StateFolder(tmp_path, "other")
    begin(other, 1, KEPT_UNUSED + timedelta(days=1))
    begin(other, 2, KEPT_UNUSED - timedelta(days=1))
    other.write_baseline(5, "run1")
    left = [folder.folder / ".baseline.json.abc.tmp", folder.folder / "reports" / ".history.json.abc.tmp"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (NOW.timestamp() - 7200,) * 2)
    folder.begin("run", NOW)
    assert not any(path.exists() for path in (*left, other.run("run1").folder))
    assert other.run("run2").folder.exists()
    assert other.read_baseline() == 5


def test_a_run_that_a_wrong_clock_dated_into_the_future_is_not_the_newest_for_years(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path, "key")
    begin(folder, 1, timedelta(days=-3000))
    begin(folder, 2, timedelta(hours=2))
    folder.begin("now", NOW)
    found = folder.newest("diff.json")
    assert found is not None
    assert found.run_id == "run2"


def test_a_disk_that_old_runs_have_filled_has_room_again_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [tmp_path / "key" / "runs" / f"run{number}" for number in range(KEPT_RUNS + 1)]
    for number, run in enumerate(made):
        run.mkdir(parents=True)
        at = (datetime.now(UTC) - timedelta(hours=20 - number)).timestamp()
        os.utime(run, (at, at))
    statvfs = os.statvfs

    def full_while_the_oldest_is_there(path: Path) -> object:
        found = statvfs(path)
        free = 0 if made[0].exists() else found.f_bavail
        return SimpleNamespace(f_bavail=free, f_frsize=found.f_frsize, f_flag=found.f_flag)

    monkeypatch.setattr(os, "statvfs", full_while_the_oldest_is_there)
    require_local_storage({"PRODUCT_SYNC_STATE": str(tmp_path)})
    assert [run.exists() for run in made] == [False] + [True] * KEPT_RUNS
    made[0].mkdir()
    os.utime(made[0], (0, 0))
    StateFolder(tmp_path, "key").begin("next", datetime.now(UTC))
    assert not made[0].exists()
