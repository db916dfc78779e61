"""A process is measured with its children, and one that hangs is ended."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from product_sync_bench.measuring import Cost, measure

MB = 1_000_000


def measured(code: str, folder: Path, limit_s: float = 30.0) -> Cost:
    command = [sys.executable, "-c", code]
    return measure(command, env=dict(os.environ), folder=folder, log=folder / "log", limit_s=limit_s)


def test_memory_of_a_child_counts(tmp_path: Path) -> None:
    child = "b = bytearray(80_000_000); import time; time.sleep(0.4)"
    parent = f"import subprocess, sys; b = bytearray(60_000_000); subprocess.run([sys.executable, '-c', {child!r}])"
    assert 140 * MB < measured(parent, tmp_path).peak_bytes < 220 * MB


def test_a_process_that_does_not_execute_its_program_yet_is_not_counted_beside_its_parent(tmp_path: Path) -> None:
    """Until then it runs in its parent's memory. With a parent of this size half of all samples hit such a child."""
    parent = (
        "import subprocess, time; b = bytearray(150_000_000); end = time.time() + 2\n"
        "while time.time() < end: subprocess.run(['true'])"
    )
    assert 150 * MB < measured(parent, tmp_path).peak_bytes < 220 * MB


def test_a_peak_between_two_looks_is_seen(tmp_path: Path) -> None:
    code = "import time; b = bytearray(90_000_000); del b; time.sleep(0.3)"
    assert measured(code, tmp_path).peak_bytes > 90 * MB


def test_processor_time_of_a_child_counts(tmp_path: Path) -> None:
    child = "import time\nwhile time.process_time() < 0.5: pass"
    cost = measured(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])", tmp_path)
    assert cost.cpu_s > 0.5
    assert cost.wall_s > 0.5


def test_status_and_output_are_kept(tmp_path: Path) -> None:
    cost = measured("print('said'); raise SystemExit(3)", tmp_path)
    assert cost.status == 3
    assert (tmp_path / "log").read_text() == "said\n"


def test_a_process_that_hangs_is_ended(tmp_path: Path) -> None:
    cost = measured("import time; time.sleep(60)", tmp_path, limit_s=0.3)
    assert cost.status == -9
    assert cost.wall_s < 10
