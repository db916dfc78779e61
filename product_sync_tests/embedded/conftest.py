"""Folders for servers of a test's own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from product_sync.embedded.servers import remove


@pytest.fixture
def folder() -> Iterator[Path]:
    """A data folder, not there yet, that the servers' user can reach: with blanks, and too long for a socket."""
    base = Path(tempfile.mkdtemp(prefix="product sync "))
    base.chmod(0o711)
    data = base / ("a long name " * 10).strip() / "data"
    yield data
    remove(data)
    shutil.rmtree(base)
