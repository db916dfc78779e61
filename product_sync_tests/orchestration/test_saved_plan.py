"""Plan and apply: what a dry run has shown can be executed later, that and nothing else, or it is refused."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from product_sync.orchestration import names
from product_sync.orchestration.names import PRODUCT
from product_sync.pipeline.pending_diff import OLDEST_PLAN
from product_sync.settings import RunOptions
from product_sync.state import store
from product_sync.state.files import TAKEN_AT
from product_sync.state.retention import KEPT_PLANS
from product_sync.state.store import RunFiles, StateFolder
from product_sync_tests.shop import Shop, ids, product
from product_sync_tests.tables import read_table, write_table

SOMEBODY_S = "0b8a4a52-3b52-4f3c-9f46-3d4b2a3b9c11"


def plan_of(shop: Shop, **switches: Any) -> str:
    """The id of the plan that a dry run makes."""
    dry = shop.run(dry_run=True, probe=False, **switches)
    assert dry.success, dry.failures
    plan_id = dry.observed[PRODUCT.load]["plan_id"]
    assert isinstance(plan_id, str)
    return plan_id


def plan_files(shop: Shop, plan_id: str) -> RunFiles:
    [folder] = shop.state.glob(f"*/plans/{plan_id}")
    return RunFiles(folder)


def with_ten_missing(shop: Shop) -> list[str]:
    shop.put(*(product(name) for name in ids(10)))
    return ids(10)


def test_a_plan_is_executed_and_the_result_is_verified(shop: Shop) -> None:
    with_ten_missing(shop)
    plan_id = plan_of(shop)
    assert shop.rows == {}
    run = shop.run(plan=plan_id)
    assert run.success, run.failures
    loaded = run.materialized[PRODUCT.load]
    assert (loaded["plan_id"], loaded["inserted"], loaded["skipped_since_plan"]) == (plan_id, 10, 0)
    assert run.checks[names.TARGET_MATCHES_SOURCE].passed
    assert len(shop.rows) == 10


def test_rows_that_changed_since_on_either_side_are_skipped_and_counted(shop: Shop) -> None:
    with_ten_missing(shop)
    shop.sql("INSERT INTO product VALUES ('p0000', 't', 1, 'i', 's', 1), ('p0001', 't', 1, 'i', 's', 1)")
    plan_id = plan_of(shop, accept_changes=True)
    shop.put(product("p0000", price=7), product("p0002", price=7))
    shop.sql("UPDATE product SET price = 2 WHERE id = 'p0001'")
    shop.remove("p0003")
    run = shop.run(plan=plan_id)
    loaded = run.materialized[PRODUCT.load]
    assert (loaded["planned"], loaded["inserted"], loaded["updated"]) == (10, 6, 0)
    assert loaded["skipped_since_plan"] == 4
    assert {name: shop.rows[name][0] for name in ("p0000", "p0001")} == {"p0000": 1, "p0001": 2}
    assert not {"p0002", "p0003"} & set(shop.rows)
    assert not run.success, "what was not in the plan is still to be done, and the verification says so"
    assert run.checks[names.TARGET_MATCHES_SOURCE].metadata["missing"].value == 1


def test_what_has_come_up_since_is_not_touched(shop: Shop) -> None:
    with_ten_missing(shop)
    plan_id = plan_of(shop)
    shop.put(product("later"))
    run = shop.run(plan=plan_id)
    assert set(shop.rows) == set(ids(10))
    assert run.materialized[PRODUCT.load]["planned"] == 10
    assert run.checks[names.TARGET_MATCHES_SOURCE].metadata["missing_ids"].value == ["later"]


def test_only_the_extra_rows_of_the_plan_are_deleted_and_only_by_a_plan_to_delete(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(60)))
    assert shop.run().success
    shop.sql("INSERT INTO product VALUES ('gone', 't', 1, 'i', 's', 1)")
    report, delete = plan_of(shop), plan_of(shop, extra="delete")
    refused = shop.run(plan=report, extra="delete")
    assert "made with extra=report" in refused.failures
    shop.sql("INSERT INTO product VALUES ('gone too', 't', 1, 'i', 's', 1)")
    run = shop.run(plan=delete, extra="delete", max_drift_growth=1.0)
    assert run.materialized[PRODUCT.load]["deleted"] == 1
    assert "gone" not in shop.rows
    assert "gone too" in shop.rows


def test_a_drift_that_has_grown_by_more_than_the_share_is_refused(shop: Shop) -> None:
    with_ten_missing(shop)
    plan_id = plan_of(shop)
    shop.put(product("q1"), product("q2"), product("q3"))
    refused = shop.run(plan=plan_id)
    assert "has 10 differences, and now there are 13" in refused.failures
    assert shop.rows == {}
    shop.run(plan=plan_id, max_drift_growth=0.3)
    assert set(shop.rows) == set(ids(10))


def test_a_plan_that_is_too_old_is_refused_before_anything_is_read(shop: Shop) -> None:
    with_ten_missing(shop)
    plan_id = plan_of(shop)
    age(plan_files(shop, plan_id), timedelta(minutes=61))
    refused = shop.run(plan=plan_id)
    assert f"Plan {plan_id} is 61 minutes old" in refused.failures
    assert PRODUCT.source_snapshot not in refused.materialized
    assert shop.rows == {}
    assert shop.run(plan=plan_id, max_plan_age_s=7_200).success


def test_a_plan_for_other_databases_another_mapping_or_other_types_is_refused(shop: Shop) -> None:
    with_ten_missing(shop)
    plan_id = plan_of(shop)
    shop.sql("ALTER TABLE product ALTER COLUMN price TYPE numeric(10,2)")
    assert "another source, target, mapping or table definition" in shop.run(plan=plan_id).failures
    assert "There is no plan" in shop.run(plan=SOMEBODY_S).failures
    assert shop.rows == {}


@pytest.mark.parametrize("plan_id", ["*", "../runs", "latest", SOMEBODY_S.upper(), ""])
def test_what_is_no_plan_s_id_is_told(shop: Shop, plan_id: str) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="plan_id that a dry run printed"):
        shop.run(plan=plan_id)


def test_a_run_cannot_execute_a_plan_and_be_dry(shop: Shop) -> None:
    with_ten_missing(shop)
    plan_id = plan_of(shop)
    with pytest.raises(dg.DagsterInvalidConfigError, match="not both"):
        shop.run(plan=plan_id, dry_run=True)
    dry = shop.run(plan=plan_id, config={"ops": {"product_load": {"config": {"dry_run": True}}}})
    assert "not both" in dry.failures
    assert shop.rows == {}


def test_the_load_alone_does_not_execute_a_plan_without_a_fresh_reading(shop: Shop) -> None:
    with_ten_missing(shop)
    plan_id = plan_of(shop)
    refused = shop.materialize(PRODUCT.load, PRODUCT.quarantine, plan=plan_id)
    assert "has read both sides itself. Start the whole job" in refused.failures, "of whichever sync"
    assert shop.rows == {}


def test_a_plan_outlives_the_files_of_its_run_for_a_day(shop: Shop) -> None:
    with_ten_missing(shop)
    plan_id = plan_of(shop)
    kept = plan_files(shop, plan_id)
    folder = StateFolder(shop.state, kept.folder.parent.parent.name)
    now = datetime.now(UTC)
    for number in range(6):
        folder.begin(f"later-{number}", now + timedelta(hours=2))
    assert not folder.run(plan_id).has(store.DIFF)
    assert kept.has(store.DIFF)
    folder.begin("last", now + KEPT_PLANS + timedelta(minutes=1))
    assert not kept.folder.exists()
    assert {path.stat().st_mode & 0o077 for path in kept.folder.glob("*.arrow")} <= {0}


def test_plans_and_diffs_are_trusted_for_the_same_time() -> None:
    assert RunOptions().max_plan_age_s == OLDEST_PLAN.total_seconds()


def age(files: RunFiles, by: timedelta) -> None:
    """Make a plan older than it is."""
    path: Path = files.path(store.DIFF)
    table = read_table(path)
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    metadata[TAKEN_AT] = (datetime.fromisoformat(metadata[TAKEN_AT]) - by).isoformat()
    write_table(path, table.schema.remove_metadata(), table.to_batches(), metadata=metadata)
    os.utime(path)
    assert json.loads(files.path(store.PLAN).read_text())["extra"] == "report"
