"""Standard streams change nothing of a sync: closed, without a reader, full, without the right letters."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from product_sync.runtime.output_streams import LenientFile
from product_sync_tests.market import Market, products

COMMAND = (sys.executable, "-m", "product_sync.cli")
FEW = 30


@pytest.fixture
def stocked(market: Market) -> Market:
    """A title that neither ASCII nor Latin 1 can show, one that changes, and some that are missing."""
    market.stock([one | {"title": f"指輪 {one['quantity']}"} for one in products(FEW)])
    market.copy(products(1))
    return market


def shell(market: Market, line: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A command with its redirections, as a person types them."""
    return subprocess.run(
        ["bash", "-c", line, "bash", *COMMAND],
        env={**market.env, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_reader_that_goes_away_does_not_end_a_sync(stocked: Market) -> None:
    line = 'set -o pipefail; "$@" sync --batch-size 10 2>&1 | head -c 1'
    assert shell(stocked, line).returncode == 0
    assert len(stocked.rows()) == FEW


def test_closed_streams_do_not_end_a_sync_and_no_text_gets_into_its_files(stocked: Market) -> None:
    assert shell(stocked, 'exec "$@" sync <&- >&- 2>&-').returncode == 0
    assert len(stocked.rows()) == FEW
    [quarantine] = stocked.state.glob("*/quarantine.arrow")
    assert quarantine.read_bytes().startswith(b"ARROW1")
    assert (stocked.state / "dagster/history/runs.db").read_bytes().startswith(b"SQLite format 3")


def test_letters_that_the_terminal_does_not_have_are_shown_as_escapes(stocked: Market) -> None:
    shown = shell(stocked, 'exec "$@" sync --dry-run', PYTHONIOENCODING="ascii", LC_ALL="C")
    assert shown.returncode == 0
    assert "Traceback" not in shown.stderr
    assert "\\u6307\\u8f2a" in shown.stdout


def test_standard_output_on_a_full_disk_is_said_and_the_status_stays(stocked: Market) -> None:
    full = shell(stocked, 'exec "$@" doctor --json > /dev/full')
    assert full.returncode == 0
    assert "standard output could not be written: No space left on device" in full.stderr
    assert "Traceback" not in full.stderr


def test_a_stream_that_does_not_wait_for_its_reader_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    more_than_a_pipe_holds = b"x" * 500_000
    with ThreadPoolExecutor(1) as threads, os.fdopen(reading, "rb") as pipe:
        writes = threads.submit(write_and_close, writing, more_than_a_pipe_holds)
        assert pipe.read() == more_than_a_pipe_holds
        assert writes.result() is None


def write_and_close(descriptor: int, content: bytes) -> OSError | None:
    with LenientFile(descriptor, "w") as file, io.BufferedWriter(file) as stream:
        stream.write(content)
    return file.failure
