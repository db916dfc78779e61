"""Runs whose steps are on machines that share nothing but the object store and the databases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from product_sync import api
from product_sync.embedded.servers import Servers
from product_sync_tests.databases import cart_database
from product_sync_tests.deploy import ROOT
from product_sync_tests.machines import Fleet, instance_config
from product_sync_tests.object_store import S3Server, s3_server, store_url
from product_sync_tests.shop import Outcome, Shop, ids, product

__all__ = ["s3_server", "store_url"]


@pytest.fixture
def history_url(servers: Servers) -> Iterator[str]:
    """The database of Dagster's history, of this test alone."""
    with cart_database(servers) as url:
        yield url


@pytest.fixture
def known(shop: Shop, store_url: str, s3_server: S3Server) -> dict[str, str]:
    """What all machines know: the addresses, and where the program is."""
    return {
        "PRODUCT_SERVICE_MONGODB_URL": shop.mongodb_url,
        "CART_DB_URL": shop.cart_url,
        "PRODUCT_SYNC_STATE": store_url,
        **s3_server.env,
        "SYNC_EXECUTOR": "product_sync_tests.machines:on_machines",
        "SYNC_QUARANTINE_BUDGET": "1",
        "PYTHONPATH": str(ROOT),
    }


def outcome(history_url: str, tmp_path: Any) -> Outcome:
    """What Dagster recorded of the newest run."""
    (tmp_path / "dagster.yaml").write_text(instance_config(history_url))
    instance = dg.DagsterInstance.from_config(str(tmp_path))
    run = instance.get_runs(limit=1)[0]
    return Outcome(instance, run.run_id, run.is_success)


def test_each_step_on_a_machine_of_its_own_shares_nothing_but_the_store_and_the_databases(
    shop: Shop, known: dict[str, str], history_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.put(*(product(name) for name in ids(30)), product("bad", price="12"))
    shop.sql("INSERT INTO product VALUES ('p0001', 'old', 500, 'i.jpg', 's1', 1), ('x', 't', 1, 'i', 's', 1)")
    fleet = Fleet(known, history_url)
    process = fleet.execute("product_sync")
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert sorted(shop.rows) == [*ids(30), "x"]
    done = outcome(history_url, tmp_path)
    processes = [event.pid for event in done.events if event.event_type is dg.DagsterEventType.STEP_SUCCESS]
    assert len(processes) == 5
    assert len(set(processes)) == 5
    assert set(done.checks) > {"source_looks_complete", "target_matches_source"}

    assert shop.state.exists() is False, "nothing is in a folder"
    monkeypatch.setenv("PRODUCT_SYNC_STATE", known["PRODUCT_SYNC_STATE"])
    monkeypatch.setenv("PRODUCT_SYNC_SCRATCH", str(tmp_path / "scratch"))
    assert api.quarantine().by_reason == {"wrong_type": 1}, "here, on another machine"
