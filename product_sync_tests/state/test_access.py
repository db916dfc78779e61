"""A part of the state folder that cannot be used is refused by name before anything is written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from product_sync.errors import ConfigurationError, LocalStorageError
from product_sync.state import access
from product_sync.state.access import require_usable

_NOBODY = 65_534


@contextmanager
def as_another_user() -> Iterator[None]:
    """As root, become somebody else for a moment; another user is somebody else than root already."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that another user can enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="product_sync_tests_") as made:
        folder = Path(made)
        folder.chmod(0o755)
        yield folder


def test_a_folder_that_is_not_there_yet_can_be_used_and_is_not_made(tmp_path: Path) -> None:
    require_usable(tmp_path / "state" / "of" / "ours", key="key")
    assert list(tmp_path.iterdir()) == []


def test_a_look_leaves_nothing_in_the_folder(tmp_path: Path) -> None:
    require_usable(tmp_path, key="key")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=f"{tmp_path / 'file'} is not a directory.*PRODUCT_SYNC_STATE"):
        require_usable(tmp_path / "file" / "state")


def test_a_folder_that_may_not_be_written_is_named_with_its_user(reachable: Path) -> None:
    (reachable / "state").mkdir(mode=0o500)
    with as_another_user(), pytest.raises(ConfigurationError, match=f"user .* the state folder {reachable}/state"):
        require_usable(reachable / "state")
    with as_another_user(), pytest.raises(ConfigurationError, match=f"{reachable}/state/new"):
        require_usable(reachable / "state" / "new")


@pytest.mark.parametrize(
    "name", ["key/quarantine.arrow", "dagster/history/runs.db", "notifications.json", "key/reports"]
)
def test_a_file_of_another_user_is_named_with_its_owner(reachable: Path, name: str) -> None:
    state = reachable / "state"
    (state / name).parent.mkdir(parents=True)
    for folder in (state, *(state / name).parents):
        if folder.is_relative_to(state):
            folder.chmod(0o777)
    (state / name).touch(mode=0o400)
    with as_another_user(), pytest.raises(ConfigurationError, match=f"{state / name} belongs to user"):
        require_usable(state, key="key")
    with as_another_user():
        require_usable(state, key="another", run_history=False) if name.startswith(("key", "dagster")) else None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can write what is not its own")
def test_root_does_not_leave_files_among_those_of_another_user(tmp_path: Path) -> None:
    os.chown(tmp_path, _NOBODY, _NOBODY)
    require_usable(tmp_path, key="key")  # a folder that was mounted for root
    (tmp_path / "key").mkdir()
    os.chown(tmp_path / "key", _NOBODY, _NOBODY)
    with pytest.raises(ConfigurationError, match="who could not use what root writes there"):
        require_usable(tmp_path, key="key")


def test_a_path_that_the_databases_would_read_as_another_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not valid UTF-8"):
        require_usable(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")))


@pytest.mark.parametrize("character", ["?", "%"])
def test_a_path_that_cannot_be_in_a_url_is_refused_where_runs_are_recorded_there(
    tmp_path: Path, character: str
) -> None:
    root = tmp_path / f"a{character}20b"
    with pytest.raises(ConfigurationError, match="which the run history cannot have"):
        require_usable(root)
    require_usable(root, run_history=False)


def test_a_disk_without_room_is_refused_with_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    monkeypatch.setattr(access, "MIN_FREE_BYTES", 10)
    require_usable(tmp_path)
    with pytest.raises(LocalStorageError, match=r"of free space, and a run needs .* PRODUCT_SYNC_STATE"):
        require_usable(tmp_path, needed_bytes=2 * free)
