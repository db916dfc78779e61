"""`product-sync dev`: the servers and the Dagster UI, until an interrupt stops all of it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from product_sync.embedded.process import LOOPBACK, free_port
from product_sync.embedded.servers import remove
from product_sync_tests.market import clean_environment, wait_until


def test_it_serves_the_ui_and_one_interrupt_stops_everything(tmp_path: Path) -> None:
    folder, port = tmp_path / "data", free_port()
    command = [sys.executable, "-m", "product_sync.cli", "dev", "--folder", str(folder), "--port", str(port)]
    log, below = tmp_path / "log", list[psutil.Process]()
    try:
        with (
            log.open("w") as output,
            subprocess.Popen(command, env=clean_environment(), stdout=output, stderr=subprocess.STDOUT) as dev,
        ):
            try:
                wait_until(lambda: dev.poll() is not None or answers(port))
                assert dev.poll() is None, log.read_text()
                below = all_below(dev)
                assert any("postgres" in process.name() for process in below)
                assert_only_reports_are_served(folder)
                assert_the_next_commands_work(log.read_text())
                dev.send_signal(signal.SIGINT)
                assert dev.wait(60) == 0, log.read_text()
            finally:
                below = [*below, *all_below(dev)]
                dev.kill()
        wait_until(lambda: not any(map(is_alive, below)))
    finally:
        for process in filter(is_alive, below):  # Dagster's processes have a session of their own
            process.kill()
        remove(folder)
    said = log.read_text()
    assert f"http://{LOOPBACK}:{port}" in said
    assert "Everything is stopped." in said


def test_a_port_in_use_is_said_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        shown = subprocess.run(
            [sys.executable, "-m", "product_sync.cli", "dev", "--folder", str(tmp_path / "data"), "--port", str(port)],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert shown.returncode not in (0, 130)
    assert f"{LOOPBACK}:{port}" in shown.stderr
    assert "choose another port" in shown.stderr
    assert "Traceback" not in shown.stderr
    assert not (tmp_path / "data").exists()


def all_below(dev: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(dev.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/server_info", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def assert_the_next_commands_work(said: str) -> None:
    """What `dev` says to type in another shell is typed there, in one where the venv is not active."""
    lines = [line.strip() for line in said.partition("In another shell:\n")[2].splitlines()[:3]]
    assert lines[0].startswith("source ")
    assert lines[1:] == ["product-sync sync product", "product-sync sync sellers"]
    typed = subprocess.run(
        ["bash", "-c", f"{lines[0]} && {lines[1]} --dry-run && {lines[2]} --dry-run"],
        env={**clean_environment(), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert typed.returncode == 0, typed.stdout + typed.stderr
    assert typed.stdout.count("Dry run") == 2
    assert "Sync: sellers" in typed.stdout


def assert_only_reports_are_served(folder: Path) -> None:
    script = (folder / "environment.sh").read_text()
    [address] = [line.partition("=")[2].strip("'") for line in script.splitlines() if "REPORTS_URL" in line]
    report = folder / "dagster" / "product_sync_state" / "a-key" / "reports" / f"{uuid4()}.html"
    report.parent.mkdir(parents=True)
    report.write_text("what differs")
    beside = report.with_name("history.json")
    beside.write_text("{}")
    with urllib.request.urlopen(f"{address}/{report.name}", timeout=30) as answer:  # noqa: S310 - of this test
        assert answer.read() == b"what differs"
    for other in ("", "history.json", "../environment.sh", f"../reports/{report.name}", f"{uuid4()}.html"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{address}/{other}", timeout=30)  # noqa: S310 - of this test
