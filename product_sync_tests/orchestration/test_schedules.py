"""The schedule: set by the environment, refused by name where it is wrong, and never on top of another run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from product_sync.errors import ConfigurationError
from product_sync.orchestration.names import PRODUCT
from product_sync.orchestration.schedules import sync_schedule
from product_sync.schema.definition import load_definition
from product_sync.settings import ScheduleSettings
from product_sync_tests.shop import Shop, project, record_run

#: Every other status of Dagster is that of a run which is queued or in progress.
ENDED = {
    dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.MANAGED,
}  # fmt: skip


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("instance"))) as opened:
        yield opened


@pytest.fixture
def instance(opened: dg.DagsterInstance) -> dg.DagsterInstance:
    """Without any run."""
    opened.wipe()
    return opened


def tick(instance: dg.DagsterInstance) -> tuple[int, str]:
    """How many runs a tick asks for, and why it asks for none."""
    repository = project(schedule=ScheduleSettings.from_environment({})).get_repository_def()
    context = dg.build_schedule_context(instance=instance, repository_def=repository)
    data = repository.get_schedule_def("product_sync_schedule").evaluate_tick(context)
    return len(data.run_requests or ()), data.skip_message or ""


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"SYNC_CRON_SCHEDULE": "every day"}, "The cron expression of product_sync_schedule is 'every day'"),
        ({"SYNC_CRON_SCHEDULE": "61 * * * *"}, "The cron expression of product_sync_schedule is '61 * * * *'"),
        ({"TIMEZONE": "Mars/Olympus"}, "TIMEZONE is 'Mars/Olympus'"),
        ({"ENABLE_SCHEDULER": "perhaps"}, "ENABLE_SCHEDULER is 'perhaps'"),
    ],
)
def test_a_schedule_that_is_set_wrongly_is_refused_by_name(environment: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match="is") as refused:
        project(schedule=ScheduleSettings.from_environment(environment))
    assert named in str(refused.value)
    assert "Expected" in str(refused.value)


def test_the_schedule_is_every_ten_minutes_in_utc_and_off_until_it_is_enabled() -> None:
    schedule = sync_schedule(load_definition(), ScheduleSettings.from_environment({}))
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("*/10 * * * *", "UTC")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    enabled = sync_schedule(
        load_definition(),
        ScheduleSettings.from_environment(
            {"ENABLE_SCHEDULER": "true", "TIMEZONE": "Europe/Paris", "SYNC_CRON_SCHEDULE": "5 4 * * *"}
        ),
    )
    assert (enabled.cron_schedule, enabled.execution_timezone) == ("5 4 * * *", "Europe/Paris")
    assert enabled.default_status is dg.DefaultScheduleStatus.RUNNING


def test_a_tick_starts_the_sync(instance: dg.DagsterInstance) -> None:
    assert tick(instance) == (1, "")


@pytest.mark.parametrize(
    "status", [each for each in dg.DagsterRunStatus if each not in ENDED], ids=lambda each: each.value
)
def test_a_tick_is_skipped_with_a_reason_while_a_run_is_queued_or_in_progress(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    run_id = record_run(instance, status)
    requested, reason = tick(instance)
    assert requested == 0
    assert run_id in reason


def test_a_tick_is_skipped_while_another_sync_holds_the_lock_and_names_it(
    instance: dg.DagsterInstance, shop: Shop
) -> None:
    with shop.locked():
        requested, reason = tick(instance)
    assert requested == 0
    assert reason.startswith("Another sync holds the lock: another sync (backend ")
    assert tick(instance) == (1, "")


def test_a_tick_of_a_tenant_is_not_skipped_while_the_table_is_locked_so_that_each_has_its_turn(
    instance: dg.DagsterInstance, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("product", "other")):
        columns = f"{{id: {{source: _id}}, title: {{source: title}}, quantity: {{value: {number}}}}}"
        text = f"{{source: {{collection: products}}, target: {{table: product}}, columns: {columns}}}"
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.setenv("PRODUCT_SYNC_MAPPING", str(tmp_path))
    with shop.locked():
        assert tick(instance) == (1, "")


def test_a_tick_starts_a_run_where_the_lock_cannot_be_looked_at_so_that_the_run_says_why(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CART_DB_URL", "postgresql://nobody@127.0.0.1:1/cart")
    assert tick(instance) == (1, "")


def test_a_tick_is_skipped_while_a_run_of_the_materialize_button_is_in_progress(instance: dg.DagsterInstance) -> None:
    record_run(instance, job="__ASSET_JOB", assets=frozenset({dg.AssetKey(PRODUCT.load)}))
    assert tick(instance)[0] == 0


def test_runs_of_other_projects_and_runs_that_have_ended_do_not_keep_a_tick_back(instance: dg.DagsterInstance) -> None:
    record_run(instance, job="__ASSET_JOB", assets=frozenset({dg.AssetKey("invoices")}))
    record_run(instance, job="invoicing")
    for status in ENDED:
        record_run(instance, status)
    assert tick(instance) == (1, "")
