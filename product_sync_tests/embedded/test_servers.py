"""Promises about the embedded servers' life: started on any folder, stopped in any case, recovered after a kill."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from pymongo import MongoClient

from product_sync.embedded import mongod, postgres
from product_sync.embedded.process import EmbeddedServerError, FolderInUseError, PortInUseError
from product_sync.embedded.servers import Servers, remove, running

_WAIT_S = 20.0


@contextmanager
def _holder(folder: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    with subprocess.Popen(
        [sys.executable, "-m", "product_sync_tests.embedded.holder", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def _servers_on(folder: Path) -> list[psutil.Process]:
    """Every process that has the folder, or something in it, among its arguments."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if "holder" not in " ".join(process.info["cmdline"] or ())
        and any(argument.startswith(str(folder)) for argument in process.info["cmdline"] or ())
    ]


def _wait_until_none_on(folder: Path) -> None:
    deadline = time.monotonic() + _WAIT_S
    while left := _servers_on(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _kill_with_watchers(holder: subprocess.Popen[str], servers: list[psutil.Process]) -> None:
    """So that nothing but the next start can help."""
    for child in psutil.Process(holder.pid).children():
        if child not in servers:
            child.kill()
    holder.kill()
    holder.wait()


def _assert_usable(servers: Servers) -> None:
    with MongoClient[dict[str, object]](servers.mongodb_url) as client, client.start_session(snapshot=True) as session:
        database = client.get_default_database()
        assert database.name == "shop"
        list(database["products"].find(session=session))
    with psycopg.connect(servers.cart_url) as connection:
        assert connection.execute("SELECT current_database(), version() ~ 'PostgreSQL 18'").fetchone() == ("cart", True)
    with psycopg.connect(servers.dagster_url.replace("+psycopg2", "")) as connection:
        assert connection.info.dbname == "dagster"


def test_they_start_on_any_path_keep_their_data_and_ports_and_leave_nothing_running(folder: Path) -> None:
    with running(folder, durable=False) as first:
        _assert_usable(first)
        assert len(_servers_on(folder)) == 2
        with MongoClient[dict[str, object]](first.mongodb_url) as client:
            client.get_default_database()["products"].insert_one({"_id": 1})
        with psycopg.connect(first.cart_url) as connection:
            connection.execute("CREATE TABLE kept (id integer)")
    assert _servers_on(folder) == []
    children = [each for each in psutil.Process().children(recursive=True) if each.status() != psutil.STATUS_ZOMBIE]
    assert not [child for child in children if str(folder) in child.cmdline()]

    def use_and_fail() -> None:
        with running(folder) as second:
            assert second == first
            with MongoClient[dict[str, object]](second.mongodb_url) as client:
                assert client.get_default_database()["products"].find_one() == {"_id": 1}
            with psycopg.connect(second.cart_url) as connection:
                connection.execute("SELECT FROM kept")
            raise RuntimeError("in the block")

    with pytest.raises(RuntimeError, match="in the block"):
        use_and_fail()
    assert _servers_on(folder) == []


def test_servers_that_outlived_their_holder_are_stopped_by_a_clean_up(folder: Path) -> None:
    with _holder(folder) as (process, _):
        _kill_with_watchers(process, _servers_on(folder))
        assert len(_servers_on(folder)) == 2
    remove(folder)
    assert _servers_on(folder) == []
    assert not folder.exists()


def test_a_killed_holder_takes_its_servers_with_it(folder: Path) -> None:
    with _holder(folder) as (process, _):
        process.kill()
        _wait_until_none_on(folder)


def test_servers_that_outlived_their_holder_are_stopped_by_the_next_start_which_recovers_the_data(folder: Path) -> None:
    with _holder(folder) as (process, urls):
        with MongoClient[dict[str, object]](urls["mongodb_url"]) as client:
            client.get_default_database()["products"].insert_one({"_id": 1})
        left = _servers_on(folder)
        _kill_with_watchers(process, left)
        assert len(_servers_on(folder)) == 2
        # Other ports than theirs, as if these had been lost: the set's configuration has to follow.
        (folder / "ports.json").unlink()
        with running(folder, durable=False) as servers:
            _assert_usable(servers)
            with MongoClient[dict[str, object]](servers.mongodb_url) as client:
                assert client.get_default_database()["products"].find_one() == {"_id": 1}
            assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in left)


def test_a_stale_pid_file_that_names_a_stranger_harms_neither(folder: Path) -> None:
    data, mongodb = folder / "postgres" / "data", folder / "mongodb" / "data"
    data.mkdir(parents=True)
    mongodb.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (data / "postmaster.pid").write_text(f"{stranger.pid}\n{data}\n1\n5432\n\n127.0.0.1\n0 0\nready\n")
        (mongodb / "mongod.lock").write_text(f"{stranger.pid}\n")
        postgres.stop_leftover(data.parent)
        mongod.stop_leftover(mongodb.parent)
        assert stranger.poll() is None
        # PostgreSQL would refuse to start while the stranger lives; mongod knows by its lock that the file is stale.
        assert not (data / "postmaster.pid").exists()
        stranger.kill()


def test_two_on_one_folder_are_refused_by_name(folder: Path) -> None:
    with _holder(folder) as (process, _):
        with pytest.raises(FolderInUseError, match=f"in use by process {process.pid}") as refused, running(folder):
            pass
        assert refused.value.exit_status == 3
        assert "another clone" in refused.value.hint
        assert len(_servers_on(folder)) == 2


def test_a_port_that_is_in_use_is_named_and_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        folder.mkdir(parents=True)
        (folder / "ports.json").write_text(json.dumps([port, port]))
        # As if another process took the ports after they were chosen.
        monkeypatch.setattr("product_sync.embedded.servers.is_free", lambda _: True)
        monkeypatch.setattr("product_sync.embedded.servers._ATTEMPTS", 1)
        with pytest.raises(PortInUseError, match=rf"127\.0\.0\.1:{port}: "), running(folder, durable=False):
            pass
        assert _servers_on(folder) == []
        monkeypatch.setattr("product_sync.embedded.servers._ATTEMPTS", 2)
        with running(folder, durable=False) as servers:
            assert f":{port}/" not in servers.mongodb_url
            assert f":{port}/" not in servers.cart_url


def test_data_of_another_postgresql_is_named_as_the_server_names_it_with_the_way_out(folder: Path) -> None:
    with running(folder, durable=False) as started:
        version = started.postgres_folder / "data" / "PG_VERSION"
    version.write_text("16\n")
    with (
        pytest.raises(EmbeddedServerError, match=r"incompatible with server.* of another version, delete"),
        running(folder),
    ):
        pass
    assert _servers_on(folder) == []


def test_data_of_another_user_is_refused_with_the_way_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "postgres" / "data").mkdir(parents=True)
    # As an ordinary user, whom the folder that we just made does not belong to.
    monkeypatch.setattr(postgres, "server_account", lambda: None)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(EmbeddedServerError, match=r"created by another user.*as that user"), running(folder):
        pass
    assert _servers_on(folder) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedServerError, match=r"file/data cannot be used"), running(tmp_path / "file" / "data"):
        pass


def test_nobody_gets_into_postgresql_without_the_password(servers: Servers) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(servers.postgres_url, password="wrong")


def test_the_passwords_are_not_shown(servers: Servers) -> None:
    assert servers.postgres_url.split(":")[2].split("@")[0] not in repr(servers)
