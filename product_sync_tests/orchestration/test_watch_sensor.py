"""The watch: nothing happens while both sides agree, and a lost event is repaired by the run that it asks for."""

from __future__ import annotations

import gc
import json
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from pymongo import MongoClient

from product_sync import api
from product_sync.orchestration import full_proof_check, watch_sensor
from product_sync.orchestration.names import FULL_PROOF_IS_RECENT, PRODUCT
from product_sync.pipeline import watch
from product_sync.pipeline.databases import Databases
from product_sync.pipeline.sides import sides_key
from product_sync.pipeline.watch import look
from product_sync.settings import ALERT_URLS, METRICS_FILE, ScheduleSettings
from product_sync.state.store import StateFolder
from product_sync_tests.orchestration.test_notifications import Daemon
from product_sync_tests.pipeline.test_sync_run import databases_of
from product_sync_tests.shop import Shop, ids, product, project, record_run

LOOKS = 40


@pytest.fixture(autouse=True)
def _settles_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event is given up at once, and not after five seconds."""

    def look_now(databases: Databases, folder: StateFolder, *, settle_s: float, **options: Any) -> watch.Look:
        assert settle_s == 5.0
        return look(databases, folder, settle_s=0.0, **options)

    monkeypatch.setattr(watch, "look", look_now)


@dataclass
class Watch:
    """The sensor of the shop, with its cursor from tick to tick."""

    shop: Shop
    settings: dict[str, str] = field(default_factory=dict)
    cursor: str | None = None

    def __post_init__(self) -> None:
        schedule = ScheduleSettings.from_environment({"ENABLE_SCHEDULER": "true", **self.settings})
        self.repository = project(schedule=schedule).get_repository_def()
        self.sensor = self.repository.get_sensor_def(PRODUCT.watch_sensor)

    def tick(self) -> dg.SensorExecutionData:
        with dg.build_sensor_context(self.shop.instance, self.cursor, repository_def=self.repository) as context:
            data = self.sensor.evaluate_tick(context)
        self.cursor = data.cursor
        return data

    def requested(self) -> list[str]:
        return [str(each.job_name) for each in self.tick().run_requests or ()]

    def said(self) -> str:
        return self.tick().skip_message or ""


def observed(data: dg.SensorExecutionData, asset: str) -> dict[str, Any]:
    found = [each for each in data.asset_events if isinstance(each, dg.AssetObservation)]
    [metadata] = [each.metadata for each in found if each.asset_key == dg.AssetKey(asset)]
    return {name: value.value for name, value in metadata.items()}


def checked(data: dg.SensorExecutionData) -> dg.AssetCheckEvaluation:
    [found] = [each for each in data.asset_events if isinstance(each, dg.AssetCheckEvaluation)]
    assert found.check_name == FULL_PROOF_IS_RECENT
    return found


def test_it_is_on_with_the_schedule_every_half_minute_and_can_be_turned_off() -> None:
    def sensors(**env: str) -> dict[str, dg.SensorDefinition]:
        found = project(schedule=ScheduleSettings.from_environment(env)).get_repository_def().sensor_defs
        return {sensor.name: sensor for sensor in found}

    sensor = sensors(ENABLE_SCHEDULER="true")[PRODUCT.watch_sensor]
    assert sensor.minimum_interval_seconds == 30
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensors()[PRODUCT.watch_sensor].default_status is dg.DefaultSensorStatus.STOPPED
    assert PRODUCT.watch_sensor not in sensors(SYNC_CHANGES_SECONDS="0", ENABLE_SCHEDULER="true")


def test_a_lost_event_is_repaired_by_the_run_that_it_asks_for(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(20)))
    watching = Watch(shop)
    assert "No full run of the sync product has passed" in watching.said()
    assert shop.run().success
    assert "0 changes" in watching.said()
    shop.put(product("p0003", price=7), product("new"))
    shop.remove("p0004")
    shop.sql("UPDATE product SET price = 9 WHERE id = 'p0007'")
    assert watching.requested() == [PRODUCT.changes_job]
    repair = shop.run(PRODUCT.changes_job)
    assert repair.success
    assert (
        repair.observed[PRODUCT.changes].items() >= {"repaired": 2, "compared": 3, "events": 0, "unsettled": 0}.items()
    )
    assert 0.0 <= repair.observed[PRODUCT.changes]["change_to_repair_s"] < 60.0
    assert (shop.rows["p0003"][0], shop.rows["new"][0], shop.rows["p0007"][0]) == (7, 500, 9)
    after = watching.tick()
    assert not after.run_requests
    assert after.skip_message is not None
    assert after.skip_message.endswith("0 differ.")


def test_while_a_run_is_queued_or_at_work_it_looks_and_starts_none(shop: Shop) -> None:
    shop.put(product("a"))
    assert shop.run().success
    watching = Watch(shop)
    shop.put(product("a", price=7))
    run_id = record_run(shop.instance, dg.DagsterRunStatus.QUEUED)
    assert f"Run {run_id} is queued" in watching.said()
    shop.instance.delete_run(run_id)
    with shop.locked():
        assert "Another sync holds the lock" in watching.said()
    assert watching.requested() == [PRODUCT.changes_job]


def test_what_a_look_cannot_read_is_read_by_a_pass(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.put(product("a"))
    assert shop.run().success
    watching = Watch(shop)
    shop.put(product("a", price=7), product("b"))
    for bound, value in (("MAX_EVENTS", 1), ("WITHIN_S", 0.0001)):
        with monkeypatch.context() as bounded:
            bounded.setattr(watch, bound, value)
            assert watching.requested() == [PRODUCT.changes_job]
    assert shop.run(PRODUCT.changes_job).success
    assert shop.rows["a"][0] == 7
    assert "0 changes" in watching.said()


def test_while_a_pass_is_at_work_it_keeps_nothing_so_that_what_that_has_settled_stays_settled(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(20)))
    assert shop.run().success
    watching = Watch(shop)
    shop.remove("p0004")
    assert watching.requested() == [PRODUCT.changes_job]
    [path] = shop.state.glob("*/changes.json")
    before = path.read_bytes()
    run_id = record_run(shop.instance, job=PRODUCT.changes_job)
    assert f"Run {run_id} compares the changes" in watching.said()
    assert path.read_bytes() == before
    shop.instance.delete_run(run_id)
    seen = shop.run(PRODUCT.changes_job).observed[PRODUCT.changes]
    assert (seen["repaired"], seen["unsettled"], "change_to_repair_s" in seen) == (0, 0, False), "it is left alone"
    assert "p0004" in shop.rows
    assert watching.said().endswith("0 differ.")


def test_a_tick_that_finds_nothing_new_does_not_open_dagsters_storage(shop: Shop) -> None:
    shop.put(product("a"))
    assert shop.run().success
    watching = Watch(shop)
    watching.tick()
    shop.put(product("a", note="not mapped"))
    without_storage = dg.build_sensor_context(cursor=watching.cursor, repository_def=watching.repository)
    data = watching.sensor.evaluate_tick(without_storage)
    assert (data.skip_message or "").endswith("1 change, 1 product compared, 0 differ.")


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED])
def test_a_run_that_fails_or_is_cancelled_is_not_started_over_and_over(shop: Shop, status: dg.DagsterRunStatus) -> None:
    shop.put(product("a"))
    assert shop.run().success
    watching = Watch(shop)
    shop.put(product("a", price=7))
    record_run(shop.instance, status, job=PRODUCT.changes_job)
    assert "the next is in" in watching.said()


def test_a_product_that_the_database_refuses_is_tried_again_only_every_ten_minutes(shop: Shop) -> None:
    shop.put(product("a"))
    shop.sql("ALTER TABLE product ADD CHECK (price < 1000)")
    assert shop.run().success
    watching = Watch(shop)
    shop.put(product("a", price=5_000))
    assert watching.requested() == [PRODUCT.changes_job]
    shop.run(PRODUCT.changes_job, quarantine_budget=1.0)
    first = watching.tick()
    assert not first.run_requests
    assert first.skip_message is not None
    assert "1 differ" in first.skip_message
    assert "the next is in" in first.skip_message
    assert observed(Watch(shop).tick(), PRODUCT.changes)["unsettled"] == 1
    shop.put(product("a", price=900))
    assert watching.requested() == [PRODUCT.changes_job]


def test_a_loss_is_told_once_and_a_full_run_goes_on_from_there(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.put(product("a"))
    assert shop.run().success
    watching = Watch(shop)
    watching.tick()
    with MongoClient[dict[str, Any]](shop.mongodb_url) as client:
        client.get_default_database().products.drop()
    shop.put(product("gap"))
    assert "the next is in" in watching.said(), "a full run ended a moment ago"
    for record in shop.instance.get_run_records():
        shop.instance.delete_run(record.dagster_run.run_id)
    lost = Watch(shop).tick()
    assert [each.job_name for each in lost.run_requests or ()] == [PRODUCT.sync_job]
    assert "another collection has its name now" in observed(lost, PRODUCT.changes)["state"]
    assert shop.run(extra="delete", max_delete_share=1.0, accept_source_count=1).success
    assert set(shop.rows) == {"gap"}
    assert "0 differ" in watching.said()


def test_the_pages_the_metrics_and_the_statistics_say_up_to_when_changes_are_compared(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shop.put(product("a"))
    assert shop.run().success
    watching = Watch(shop)
    shop.put(product("a"), product("b"))
    first = watching.tick()
    seen = observed(first, PRODUCT.changes)
    assert (seen["events"], seen["compared"], seen["unsettled"], seen["lag_s"]) == (1, 1, 1, 0.0)
    assert time.time() - 60 < seen["full_proof_at"] <= seen["position_at"] + 1 <= time.time() + 1
    assert observed(first, PRODUCT.proof).keys() == {"full_proof_at", "position_at"}
    assert checked(first).passed
    assert not watching.tick().asset_events, "nothing has changed since"
    shop.remove("b")
    assert shop.run().success
    assert observed(watching.tick(), PRODUCT.changes)["full_proof_at"] > seen["full_proof_at"]
    shop.put(product("b"))
    watching.tick()
    monkeypatch.setenv(METRICS_FILE, str(tmp_path / "product_sync.prom"))
    Daemon(shop.instance).tick()
    exported = (tmp_path / "product_sync.prom").read_text()
    assert 'product_sync_changes_unsettled{sync="product"} 1.0' in exported
    assert 'product_sync_full_proof_timestamp_seconds{sync="product"}' in exported
    counted = api.stats(instance=shop.instance)
    assert (counted.unsettled, counted.failure) == (1, None)
    assert counted.position_at is not None
    assert datetime.fromisoformat(counted.position_at).timestamp() >= seen["position_at"]


def test_an_old_full_proof_is_a_warning_and_then_an_error(shop: Shop) -> None:
    shop.put(product("a"))
    assert shop.run().success
    [folder] = [StateFolder(shop.state, path.parent.name) for path in shop.state.glob("*/changes.json")]
    settings = ScheduleSettings.from_environment({"SYNC_FULL_PROOF_HOURS": "24"})
    for hours, passed, severity in [(1, True, "ERROR"), (25, False, "WARN"), (49, False, "ERROR"), (-1, False, "WARN")]:
        at = (datetime.now(UTC) + timedelta(hours=hours)).timestamp()
        result = full_proof_check.full_proof(dict[str, Any], PRODUCT, settings, folder, at)
        assert (result["passed"], result["severity"].name) == (passed, severity)


@pytest.mark.parametrize("jump", [timedelta(days=-400), timedelta(days=400)], ids=["set back", "set ahead"])
def test_a_clock_of_this_machine_that_jumps_stops_no_record_and_no_run(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    shop.put(product("a"))
    assert shop.run().success
    watching = Watch(shop)
    assert watching.tick().asset_events
    shop.put(product("a", price=7))
    record_run(shop.instance, dg.DagsterRunStatus.FAILURE, job=PRODUCT.changes_job)
    assert "the next is in" in watching.said()

    class Jumped:
        now = staticmethod(lambda zone: datetime.now(zone) + jump)

    monkeypatch.setattr(watch_sensor, "datetime", Jumped)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump.total_seconds())
    ticked = watching.tick()
    assert [each.job_name for each in ticked.run_requests or ()] == [PRODUCT.changes_job]
    assert observed(ticked, PRODUCT.changes)["lag_s"] == 0.0
    assert not checked(ticked).passed, "nobody knows how old the last full proof is"


def test_the_lag_raises_an_alert(shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv(ALERT_URLS, raising=False)
    shop.put(product("a"))
    assert shop.run().success
    [path] = shop.state.glob("*/changes.json")
    content = json.loads(path.read_text())
    content["position"]["time"][0] -= 3_600
    path.write_text(json.dumps(content))
    watching = Watch(shop)
    monkeypatch.setattr(watch, "MAX_EVENTS", 0)
    assert watching.requested() == [PRODUCT.changes_job]
    assert "changes/lag" in json.loads(watching.cursor or "")["alerts"]["subjects"]
    monkeypatch.setenv("CART_DB_URL", "postgresql://nobody@127.0.0.1:1/nowhere")
    key = sides_key(databases_of(shop))
    monkeypatch.setattr("product_sync.pipeline.sides.sides_key", lambda _: key)
    blind = Watch(shop)
    assert "cannot be reached" in blind.said()
    assert "changes/lag" in json.loads(blind.cursor or "")["alerts"]["subjects"]


def test_many_looks_that_find_nothing_take_no_process_no_thread_no_file_and_no_memory(shop: Shop) -> None:
    shop.put(*(product(name) for name in ids(20)))
    assert shop.run().success
    watching, process = Watch(shop), psutil.Process()
    for _ in range(LOOKS):
        watching.tick()
    children = process.children(recursive=True)
    processor = time.process_time()
    before = (process.num_threads(), process.num_fds(), process.memory_info().rss, blocks())
    for _ in range(LOOKS):
        watching.tick()
    assert (time.process_time() - processor) / LOOKS < 0.1
    until = time.monotonic() + 20
    while process.num_threads() > before[0] and time.monotonic() < until:
        time.sleep(0.1)  # the threads of the last connections end
    after = (process.num_threads(), process.num_fds(), process.memory_info().rss, blocks())
    assert process.children(recursive=True) == children
    assert after[0] <= before[0] + 2
    assert after[1] <= before[1] + 4
    assert after[2] - before[2] < 4_000_000
    assert (after[3] - before[3]) / LOOKS < 10


def blocks() -> int:
    """The blocks of memory that Python uses; a list or a dict that is kept takes one or two."""
    gc.collect()
    return sys.getallocatedblocks()
