"""The two places where the state can be: what is promised of it is tested on both."""

from __future__ import annotations

from pathlib import Path

import pytest

from product_sync.state.mirror import mirror_of, open_mirror
from product_sync_tests.object_store import s3_server, store_url  # noqa: F401 - fixtures


@pytest.fixture(params=["folder", "S3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The root of the state: a folder, or the scratch folder of a store."""
    if request.param == "folder":
        return tmp_path / "state"
    return open_mirror(request.getfixturevalue("store_url"), tmp_path / "scratch")


@pytest.fixture
def elsewhere(root: Path, tmp_path: Path) -> Path:
    """The same state, as another process sees it; on a store, one of another machine."""
    mirror = mirror_of(root)
    return open_mirror(mirror.objects.url, tmp_path / "scratch of another machine") if mirror else root
