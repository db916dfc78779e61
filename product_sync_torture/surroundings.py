"""Two real servers in a folder that is gone afterwards, and an environment in which only they are configured."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from product_sync.embedded.servers import Servers, remove, running

#: Variables that would let the machine's own configuration in.
_OURS = ("PRODUCT_", "CART_", "MONGO_", "SYNC_", "DAGSTER_", "PG")


@contextmanager
def servers() -> Iterator[Servers]:
    base = Path(tempfile.mkdtemp(prefix="product_sync_torture_"))
    # The folder is ours, made a line above: as root, the servers' user has to get through it.
    base.chmod(0o711)
    try:
        with running(base / "data", durable=False) as started:
            yield started
    finally:
        remove(base / "data")
        shutil.rmtree(base, ignore_errors=True)


@contextmanager
def environment(mongodb_url: str, cart_url: str, state: Path, **more: str) -> Iterator[None]:
    """What `product_sync.api` reads from the environment, for the length of the block."""
    before = dict(os.environ)
    wanted: Mapping[str, str] = {
        "PRODUCT_SERVICE_MONGODB_URL": mongodb_url,
        "CART_DB_URL": cart_url,
        "PRODUCT_SYNC_STATE": str(state),
        **more,
    }
    for name in [name for name in os.environ if name.startswith(_OURS)]:
        del os.environ[name]
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
