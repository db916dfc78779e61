"""Runs both embedded servers on one data folder during a ``with`` block, for the demo, ``product-sync dev`` and tests.

Nothing here is used in production.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from product_sync.embedded import mongod, postgres
from product_sync.embedded.placement import outside_folders
from product_sync.embedded.process import EmbeddedServerError, FolderInUseError, PortInUseError, free_port, is_free

SOURCE_DATABASE, CART_DATABASE, DAGSTER_DATABASE = "shop", "cart", "dagster"
_ATTEMPTS = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Servers:
    """The URLs of the running servers. Do not log the PostgreSQL URLs: they hold the superuser's password.

    ``mongodb_url`` names the database ``shop``, ``cart_url`` ``cart``, ``dagster_url`` ``dagster`` (in SQLAlchemy's
    form for psycopg2) and ``postgres_url`` ``postgres``. ``folder`` holds logs and data; PostgreSQL's data may be
    elsewhere, in ``postgres_folder``.
    """

    folder: Path
    postgres_folder: Path
    mongodb_url: str
    cart_url: str = field(repr=False)
    dagster_url: str = field(repr=False)
    postgres_url: str = field(repr=False)


@contextmanager
def running(
    folder: Path,
    *,
    durable: bool = True,
    say: Callable[[str], None] = _log.info,
) -> Iterator[Servers]:
    """Start both servers on ``folder``, which is created if needed, and stop them at the end. The start takes 1 to 2 s.

    The ports of the last run are used again if they are free, so that URLs stay valid. With ``durable=False``, for
    tests, no write waits for the disk. ``say`` gets a sentence if the data is not in ``folder``.

    Raises `EmbeddedServerError` (`FolderInUseError`, `PortInUseError`) with nothing left running. If this process is
    killed, the watchers or the next start on this folder stop the servers.
    """
    folder = folder.resolve()
    with _locked(folder), ExitStack() as stack:
        yield _start(folder, stack, durable=durable, say=say)


def remove(folder: Path) -> None:
    """Delete ``folder`` and its folders outside. Servers that a killed run left are stopped first. Raises
    `FolderInUseError` while another process uses it."""
    folder = folder.resolve()
    homes = [folder, *outside_folders(folder)]
    if not any(home.exists() for home in homes):
        return
    with _locked(folder):
        mongod.stop_leftover(folder / "mongodb")
        for home in homes:
            postgres.stop_leftover(home / "postgres")
            shutil.rmtree(home)


def _start(folder: Path, stack: ExitStack, *, durable: bool, say: Callable[[str], None]) -> Servers:
    executable = mongod.find_mongod()
    for attempt in range(1, _ATTEMPTS + 1):
        mongodb_port, postgres_port = _choose_ports(folder)
        with ExitStack() as attempted:
            # Both start at the same time, because each mostly waits for its disk.
            mongo = mongod.launch(folder / "mongodb", port=mongodb_port, executable=executable, durable=durable)
            attempted.callback(mongo.process.stop)
            pg = postgres.launch(folder, port=postgres_port, log=folder / "postgres.log", durable=durable, say=say)
            attempted.callback(pg.process.stop)
            attempted.callback(mongo.process.ask_to_stop)
            try:
                pg.wait_until_ready()
                mongo.wait_until_writable()
            except PortInUseError:
                # Another process may take a free port before the server does.
                if attempt == _ATTEMPTS:
                    raise
                _ports_file(folder).unlink(missing_ok=True)
                continue
            _ports_file(folder).write_text(json.dumps([mongodb_port, postgres_port]))
            _create_databases(pg)
            stack.push(attempted.pop_all())
            break
    return Servers(
        folder=folder,
        postgres_folder=pg.home,
        mongodb_url=mongo.url(SOURCE_DATABASE),
        cart_url=pg.url(CART_DATABASE),
        dagster_url=pg.url(DAGSTER_DATABASE, driver="postgresql+psycopg2"),
        postgres_url=pg.url("postgres"),
    )


def _choose_ports(folder: Path) -> tuple[int, int]:
    """The ports of MongoDB and PostgreSQL: those of the last run if they are free, else free ones."""
    try:
        last = json.loads(_ports_file(folder).read_text())
        remembered = [int(last[0]), int(last[1])]
    except (FileNotFoundError, ValueError, IndexError, TypeError, KeyError):
        return free_port(), free_port()
    mongodb, postgresql = (port if is_free(port) else free_port() for port in remembered)
    return mongodb, postgresql


def _ports_file(folder: Path) -> Path:
    return folder / "ports.json"


def _create_databases(server: postgres.Postgres) -> None:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        # database_names: the databases that an earlier run has created.
        present = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
        for name in (CART_DATABASE, DAGSTER_DATABASE):
            if name not in present:
                # create_database: cannot run inside a transaction, hence autocommit.
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock ``folder``. The lock is the system's (flock): it ends with the process, so it is never stale."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise EmbeddedServerError(
            f"The data folder {folder} cannot be used: {error.strerror}.",
            hint="Choose a folder that you can write to, or delete this one as its owner.",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            raise FolderInUseError(
                f"The data folder {folder} is in use by process {holder or 'unknown'}.",
                hint="Stop the demo or the development servers that run there, or use another clone.",
            ) from error
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)
