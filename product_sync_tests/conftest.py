"""The servers that the tests run on, and a database of its own for each test.

Every pytest-xdist worker has its own pair of servers in a temporary folder of its own; a session fixture per
process is just that. Nothing is skipped where they cannot be started: the tests fail.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import dagster as dg
import pytest

from product_sync import api
from product_sync.embedded.servers import Servers, remove, running
from product_sync_tests.databases import cart_database, create_product_table, mongodb_database
from product_sync_tests.market import Market, open_market
from product_sync_tests.run_history import history_in_memory

#: The files that take longest begin first, so that no worker is alone with one of them in the end.
LONGEST = (
    "test_server", "test_workers", "test_machines", "test_faults", "test_guide_runs", "test_hints", "test_live",
    "test_documents", "test_state_in_a_store", "test_mirror", "test_host_project", "test_deployment_services",
    "test_any_number_of_shards", "test_shards", "test_key_ranges",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


#: Before anything is imported.
_ENVIRONMENT = dict(os.environ)


def pytest_collection_finish() -> None:
    """Importing `product_sync.definitions` prepares a process and its children. Those of a test prepare themselves."""
    _put_back(_ENVIRONMENT)


@pytest.fixture(autouse=True)
def environment_of_this_test() -> Iterator[None]:
    """What code under test sets is gone after the test: a child of a later one has what that test gives it."""
    before = dict(os.environ)
    yield
    _put_back(before)


def _put_back(environment: dict[str, str]) -> None:
    """But for the variables of pytest and its plugins, which name the test."""
    for name in [each for each in os.environ if each not in environment and not each.startswith("PYTEST_")]:
        del os.environ[name]
    os.environ |= {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}


def pytest_configure() -> None:
    """A script's background jobs ignore Ctrl-C, and whatever they start does too. Tests interrupt what they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """Both servers, for all tests of this process."""
    base = Path(tempfile.mkdtemp(prefix="product_sync_tests_"))
    # The folder is ours, made a line above: as root, the servers' user has to get through it.
    base.chmod(0o711)
    try:
        with running(base / "data", durable=False) as started:
            yield started
    finally:
        remove(base / "data")
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def mongodb_url(servers: Servers) -> Iterator[str]:
    """The URL of a MongoDB database that is empty and of this test alone."""
    with mongodb_database(servers) as url:
        yield url


@pytest.fixture
def cart_url(servers: Servers) -> Iterator[str]:
    """The URL, as superuser, of a PostgreSQL database that is empty and of this test alone."""
    with cart_database(servers) as url:
        yield url


@pytest.fixture
def product_table(cart_url: str) -> str:
    """The cart's original table, empty, in ``cart_url``; its name."""
    create_product_table(cart_url)
    return "product"


@pytest.fixture(scope="session")
def history() -> Iterator[dg.DagsterInstance]:
    """The run history of all tests of this process that look at none: one in files costs as much as the run."""
    with history_in_memory() as instance:
        yield instance


@pytest.fixture
def in_memory(history: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions of `product_sync.api` record their runs in ``history``."""
    for name in ("sync", "validate", "stats"):
        monkeypatch.setattr(api, name, partial(getattr(api, name), instance=history))


@pytest.fixture
def market(servers: Servers, tmp_path: Path) -> Iterator[Market]:
    """Both sides, the collection absent and the table empty, and `product-sync` commands on them."""
    with open_market(servers, tmp_path / "state") as opened:
        yield opened
