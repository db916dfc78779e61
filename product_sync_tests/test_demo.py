"""`product-sync demo`: drift is found, shown, repaired and proven on servers of its own; nothing is left running."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

from product_sync.embedded.servers import remove
from product_sync_tests.market import clean_environment


def test_it_shows_a_repair_from_beginning_to_end(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    try:
        shown = subprocess.run(
            [sys.executable, "-m", "product_sync.cli", "demo", "--folder", str(folder)],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert processes_on(folder) == []
    finally:
        remove(folder)
    assert shown.returncode == 0, shown.stderr
    order = [
        "66 changed, 10 extra (1 of them in a cart)",
        "1. product-sync sync --dry-run",
        "nothing was written",
        "2. product-sync sync",
        "3. product-sync validate --json",
        '"valid": true',
        "4. product-sync sync, once more",
        "5. product-sync sync sellers",
        "Everything is stopped.",
    ]
    # That the counts are those that were planted is checked by the demo itself.
    positions = [shown.stdout.find(each) for each in order]
    assert -1 not in positions, shown.stdout
    assert positions == sorted(positions)
    assert any(line.startswith("load: ") for line in shown.stderr.splitlines())
    assert "Traceback" not in shown.stderr


def processes_on(folder: Path) -> list[list[str]]:
    """The command lines that name ``folder``."""
    found = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [command for command in found if any(str(folder) in part for part in command)]
