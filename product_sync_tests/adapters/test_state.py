"""The folder that outlives a run: whose files are whose, and which are kept."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from product_sync.adapters.state import KEPT_HISTORY, KEPT_REPORTS, KEPT_RUNS, PastDrift, StateFolder, keys_with
from product_sync.core.errors import ConfigurationError

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


def test_states_of_two_keys_do_not_meet(tmp_path: Path) -> None:
    one, other = StateFolder(tmp_path, "one"), StateFolder(tmp_path, "other")
    begin(one, 1, timedelta())
    one.write_baseline(10, "run1")
    assert other.newest("diff.json") is None
    assert other.read_baseline() is None
    assert one.read_baseline() == 10
    assert keys_with(tmp_path, "diff.json") == ["one"]


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


def test_the_history_of_drift_goes_back_so_many_runs_and_has_each_run_once(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path, "key")
    for number in range(KEPT_HISTORY + 5):
        folder.add_to_history(PastDrift(f"run{number}", "2030-01-01", number, 0, 0, 0, 0))
    history = folder.add_to_history(PastDrift(f"run{KEPT_HISTORY + 4}", "2030-01-01", 7, 0, 0, 0, 0))
    assert len(history) == KEPT_HISTORY
    assert [run.missing for run in history[-2:]] == [KEPT_HISTORY + 3, 7]
