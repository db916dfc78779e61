"""The choice of the mongod, and the errors if none can run."""

from __future__ import annotations

import re
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from product_sync.embedded import mongod
from product_sync.embedded.mongod import find_mongod
from product_sync.embedded.process import EmbeddedServerError
from product_sync.embedded.servers import running


def _program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", not_installed)


def test_the_variable_comes_before_the_wheel(tmp_path: Path) -> None:
    named = _program(tmp_path / "my mongod")
    assert find_mongod({"PRODUCT_SYNC_MONGOD": str(named)}) == named


def test_the_wheel_comes_before_the_path(tmp_path: Path) -> None:
    _program(tmp_path / "mongod")
    assert "site-packages" in find_mongod({"PATH": str(tmp_path)}).parts


def test_without_the_wheel_the_path_serves(no_wheel: None, tmp_path: Path) -> None:
    assert find_mongod({"PATH": str(_program(tmp_path / "mongod").parent)}) == tmp_path / "mongod"


def test_without_any_all_three_ways_are_named(no_wheel: None, tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServerError) as missing:
        find_mongod({"PATH": str(tmp_path)})
    assert missing.value.exit_status == 3
    for way in ("product_sync[embedded]", "install MongoDB", "PRODUCT_SYNC_MONGOD"):
        assert way in missing.value.hint


def test_a_variable_that_names_no_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        EmbeddedServerError, match=r"PRODUCT_SYNC_MONGOD is '.*nothing', which is not an executable file"
    ):
        find_mongod({"PRODUCT_SYNC_MONGOD": str(tmp_path / "nothing")})


def test_a_wheel_without_run_bits_is_mended(tmp_path: Path) -> None:
    program = _program(tmp_path / "mongod")
    program.chmod(0o644)
    assert mongod._executable(program) == program
    assert program.stat().st_mode & 0o777 == 0o755


def _refusal(folder: Path, monkeypatch: pytest.MonkeyPatch, program: Path) -> str:
    """What `running` says with this mongod; PostgreSQL, started beside it, must be gone as well."""
    monkeypatch.setenv("PRODUCT_SYNC_MONGOD", str(program))
    with pytest.raises(EmbeddedServerError) as refused, running(folder, durable=False):
        pass
    return str(refused.value)


def test_a_missing_library_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A program linked with a library of another name: the loader does not find it, as on a bare machine.
    true = shutil.which("true")
    assert true is not None
    program = _program(tmp_path / "mongod")
    program.write_bytes(Path(true).read_bytes().replace(b"libc.so.6\0", b"libx.so.6\0"))
    message = _refusal(folder, monkeypatch, program)
    assert re.search(r"ended with status 127 while it started: .*shared libraries: libx\.so\.6", message)
    assert "Install the packages libcurl4 and libssl3" in message


def test_a_program_of_another_system_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = _program(tmp_path / "mongod", "\x7fELF of another machine")
    message = _refusal(folder, monkeypatch, program)
    assert "cannot be started: Exec format error" in message


def test_a_server_that_ends_at_once_is_reported_with_its_last_words(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = _program(tmp_path / "mongod", "#!/bin/sh\necho 'no space left'\nexit 14\n")
    message = _refusal(folder, monkeypatch, program)
    assert "ended with status 14 while it started: no space left" in message
    assert str(folder / "mongodb" / "mongod.log") in message
