"""The sensor finds every run, however it was launched, and sends each alert once. (The daemon: `test_server.py`.)"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import dagster as dg
import pytest
from dagster._utils import get_run_crash_explanation

from product_sync.orchestration import names, sensors
from product_sync.orchestration.dead_runs import reap_dead_runs
from product_sync.orchestration.names import PRODUCT
from product_sync.orchestration.run_history import OVERLAP_S, finished_runs
from product_sync_tests.receivers import WebReceiver, web_receiver
from product_sync_tests.shop import Shop, ids, product, project, record_run


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebReceiver]:
    with web_receiver() as receiver:
        monkeypatch.setenv("PRODUCT_SYNC_ALERT_URLS", receiver.apprise)
        monkeypatch.setenv("PRODUCT_SYNC_ALERT_QUIET_MINUTES", "0")
        yield receiver


class Daemon:
    """Evaluates the sensor as the daemon does, with the cursor of the last time."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: str | None = None

    def tick(self) -> str:
        repository = project().get_repository_def()
        with dg.build_sensor_context(self.instance, self.cursor, repository_def=repository) as context:
            data = sensors.tell_of_runs_sensor.evaluate_tick(context)
        self.cursor = data.cursor or self.cursor
        return data.skip_message or ""


def test_a_failing_check_reaches_a_person_once_and_so_does_its_recovery(shop: Shop, web: WebReceiver) -> None:
    daemon = Daemon(shop.instance)
    shop.put(*(product(name) for name in ids(4)))
    failed = shop.run(PRODUCT.validate_job)
    daemon.tick()
    daemon.tick()
    assert web.titles() == ["target_matches_source failed"]
    message = web.alerts[0]["message"]
    for part in ("4 missing (first: p0000", "Run `product-sync sync`", "missing: 4", failed.run_id):
        assert part in message
    assert shop.run().success
    daemon.tick()
    daemon.tick()
    assert web.titles()[1:] == ["target_matches_source recovered"]


def test_a_state_folder_that_cannot_be_read_keeps_back_no_alert(shop: Shop, web: WebReceiver) -> None:
    shop.put(product("a"))
    daemon = Daemon(shop.instance)
    shop.run(PRODUCT.validate_job)
    [sides] = shop.state.glob("sides/*.json")
    sides.unlink()
    sides.mkdir()
    daemon.tick()
    assert web.titles() == ["target_matches_source failed"]


def test_a_failure_that_was_over_before_the_tick_is_an_alert_with_its_cause(shop: Shop, web: WebReceiver) -> None:
    shop.put(*(product(name) for name in ids(4)))
    failed = shop.run(PRODUCT.validate_job)
    assert shop.run().success
    Daemon(shop.instance).tick()
    [alert] = web.alerts
    assert alert["title"] == "product_sync: target_matches_source failed and recovered"
    assert "4 missing (first: p0000" in alert["message"]
    assert failed.run_id in alert["message"]


def test_a_warning_of_a_green_run_is_sent_as_a_warning(shop: Shop, web: WebReceiver) -> None:
    shop.put(*(product(name) for name in ids(150)), product("bad", price="a lot"))
    assert shop.run().success
    Daemon(shop.instance).tick()
    assert web.titles() == ["quarantine_within_budget gave a warning"]
    assert web.alerts[0]["type"] == "warning"


def test_a_run_whose_check_raised_is_an_alert_with_the_next_step_and_no_password(
    shop: Shop, web: WebReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.put(product("p1"))
    shop.run()
    daemon = Daemon(shop.instance)
    monkeypatch.setenv("CART_DB_URL", "postgresql://syncer:sesame@127.0.0.1:1/cart")
    failed = shop.run(PRODUCT.validate_job)
    assert failed.checks == {}
    daemon.tick()
    daemon.tick()
    [alert] = web.alerts
    assert alert["title"] == "product_sync: the job validate_sync failed"
    assert "cannot be reached" in alert["message"]
    assert "Check that the server runs" in alert["message"]
    assert "sesame" not in str(alert)
    monkeypatch.setenv("CART_DB_URL", shop.cart_url)
    assert shop.run(PRODUCT.validate_job).success
    daemon.tick()
    assert web.titles()[1:] == ["the job validate_sync recovered"]


def test_a_bug_is_shown_by_the_name_of_its_error_and_not_by_its_text(
    shop: Shop, web: WebReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("sesame")

    shop.put(product("p1"))
    monkeypatch.setattr("product_sync.pipeline.read_back.check_change", broken)
    shop.run()
    Daemon(shop.instance).tick()
    [alert] = web.alerts
    assert "ValueError" in alert["message"]
    assert "sesame" not in str(alert)


def test_a_run_whose_process_was_killed_is_an_alert(shop: Shop, web: WebReceiver) -> None:
    tags = {names.HOST_TAG: socket.gethostname(), names.PROCESS_TAG: "999999@1"}
    run_id = record_run(shop.instance, tags=tags)
    assert reap_dead_runs(shop.instance, PRODUCT, lock_is_free=lambda: False) == [run_id]
    Daemon(shop.instance).tick()
    [alert] = web.alerts
    assert "its process 999999 is gone" in alert["message"]


def test_a_killed_run_is_named_as_such_when_the_code_server_that_started_it_notices_first(
    shop: Shop, web: WebReceiver
) -> None:
    run = shop.instance.get_run_by_id(record_run(shop.instance))
    assert run
    shop.instance.report_engine_event(get_run_crash_explanation(f"Run execution process for {run.run_id}", -9), run)
    shop.instance.report_run_failed(run)
    Daemon(shop.instance).tick()
    [alert] = web.alerts
    assert "ended from outside: its process was terminated by signal 9 (SIGKILL)." in alert["message"]
    assert "the next run does the rest" in alert["message"]


def test_a_run_that_failed_before_its_first_step_is_an_alert_with_the_cause_and_no_text_of_others(
    shop: Shop, web: WebReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(shop.instance)
    monkeypatch.setenv("SYNC_BATCH_SIZE", "a hundred")
    shop.run()
    daemon.tick()
    assert "SYNC_BATCH_SIZE" in web.alerts[0]["message"]
    run = shop.instance.get_run_by_id(record_run(shop.instance, job=PRODUCT.validate_job))
    assert run
    shop.instance.report_engine_event("Could not launch it: sesame", run)
    shop.instance.report_run_failed(run, "It is marked as failed: sesame")
    daemon.tick()
    assert "Dagster marked the run as failed." in web.alerts[1]["message"]
    assert "sesame" not in str(web.alerts)


def test_runs_of_others_and_runs_from_before_the_first_tick_are_not_sent(shop: Shop, web: WebReceiver) -> None:
    record_run(shop.instance, dg.DagsterRunStatus.FAILURE, job="somebody_elses")
    Daemon(shop.instance).tick()
    ours = record_run(shop.instance, dg.DagsterRunStatus.FAILURE)
    later = time.time() + OVERLAP_S
    assert [run.run_id for run in finished_runs(shop.instance, later, [])] == []
    assert [run.run_id for run in finished_runs(shop.instance, 0.0, [])] == [ours]
    assert web.alerts == []


def test_what_was_not_delivered_is_tried_again_at_the_next_tick(shop: Shop, web: WebReceiver) -> None:
    daemon = Daemon(shop.instance)
    shop.put(product("p1"))
    shop.run(PRODUCT.validate_job)
    web.status = 503
    assert "did not accept an alert: it answered 503" in daemon.tick()
    web.status = 200
    daemon.tick()
    assert web.titles() == ["target_matches_source failed"]


def test_without_addresses_the_ui_says_how_to_set_them(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRODUCT_SYNC_ALERT_URLS", raising=False)
    shop.put(product("p1"))
    shop.run(PRODUCT.validate_job)
    assert Daemon(shop.instance).tick() == (
        "1 alert in the log. Set PRODUCT_SYNC_ALERT_URLS to have alerts sent: docs/alerts.md."
    )


def test_a_setting_that_cannot_be_is_an_alert_of_its_own_and_silences_nothing(
    shop: Shop, web: WebReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(shop.instance)
    shop.put(product("p1"))
    shop.run(PRODUCT.validate_job)
    monkeypatch.setenv("PRODUCT_SYNC_HEARTBEAT_URL", "sesame.example/ping")
    monkeypatch.setenv("PRODUCT_SYNC_METRICS_FILE", "/dev/null/product_sync.prom")
    said = daemon.tick()
    daemon.tick()
    assert sorted(web.titles()) == [
        "target_matches_source failed",
        "the setting PRODUCT_SYNC_HEARTBEAT_URL failed",
        "the setting PRODUCT_SYNC_METRICS_FILE failed",
    ]
    assert "PRODUCT_SYNC_HEARTBEAT_URL is not a web address." in said
    assert "sesame.example" not in said + str(web.alerts)
    monkeypatch.delenv("PRODUCT_SYNC_HEARTBEAT_URL")
    daemon.tick()
    assert web.titles()[3:] == ["the setting PRODUCT_SYNC_HEARTBEAT_URL recovered"]


def test_a_run_refuses_a_wrong_channel_before_it_reads_and_the_alert_goes_through_the_others(
    shop: Shop, web: WebReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRODUCT_SYNC_HEARTBEAT_URL", "hc.example/x")
    monkeypatch.setenv("CART_DB_URL", "postgresql://127.0.0.1:1/never_asked")
    run = shop.run()
    assert not run.success
    assert "PRODUCT_SYNC_HEARTBEAT_URL is not a web address." in run.failures
    monkeypatch.delenv("PRODUCT_SYNC_HEARTBEAT_URL")
    Daemon(shop.instance).tick()
    assert "PRODUCT_SYNC_HEARTBEAT_URL is not a web address." in web.alerts[0]["message"]


def test_a_sensor_that_itself_fails_is_an_alert_and_so_is_its_recovery(
    shop: Shop, web: WebReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(shop.instance)
    storage = shop.instance.get_run_records

    def broken(*_: object, **__: object) -> None:
        raise OSError("sesame")

    monkeypatch.setattr(shop.instance, "get_run_records", broken)
    for _ in range(2):
        with pytest.raises(OSError, match="sesame"):
            daemon.tick()
    monkeypatch.setattr(shop.instance, "get_run_records", storage)
    daemon.tick()
    titles = web.titles()
    assert titles[0] == "tell_of_runs of the Dagster daemon failed"
    assert titles[-1] == "tell_of_runs of the Dagster daemon recovered"
    assert "Its evaluation raised OSError." in web.alerts[0]["message"]
    assert "sesame" not in str(web.alerts)


def test_a_run_whose_record_cannot_be_read_is_an_alert_and_silences_no_other(
    shop: Shop, web: WebReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.put(product("p1"))
    broken = record_run(shop.instance, dg.DagsterRunStatus.FAILURE)
    failed = shop.run(PRODUCT.validate_job)
    read = shop.instance.all_logs

    def log(run_id: str, **options: object) -> object:
        if run_id == broken:
            raise KeyError(run_id)
        return read(run_id, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(shop.instance, "all_logs", log)
    Daemon(shop.instance).tick()
    messages = " ".join(alert["message"] for alert in web.alerts)
    assert f"The event log of run {broken} cannot be read (KeyError)." in messages
    assert failed.run_id in messages


def test_the_quarantine_of_a_run_counts_the_rows_that_the_database_refused(shop: Shop) -> None:
    """The diff and the drift report of the same run count them as missing."""
    shop.sql("ALTER TABLE product ADD CHECK (price < 1000)")
    shop.put(product("cheap"), product("dear", price=1000), product("odd", price="a lot"))
    shop.run(quarantine_budget=1.0)
    [run] = finished_runs(shop.instance, 0.0, [])
    assert (run.counts["quarantined"], run.counts["missing"], run.counts["inserted"]) == (2, 2, 1)


def test_both_storages_find_a_run_by_when_it_ended(shop: Shop, cart_url: str) -> None:
    """In PostgreSQL, Dagster's own record of when a run was updated is in the time zone of the server."""
    before = time.time()
    shop.sql(f"ALTER DATABASE {urlsplit(cart_url).path[1:]} SET timezone TO 'Pacific/Auckland'")
    storage = {"postgres_url": cart_url.replace("postgresql://", "postgresql+psycopg2://")}
    with (
        dg.DagsterInstance.local_temp(overrides={"storage": {"postgres": storage}}) as on_postgres,
        dg.DagsterInstance.local_temp() as on_sqlite,
    ):
        for instance in (on_postgres, on_sqlite):
            run_id = record_run(instance)
            run = instance.get_run_by_id(run_id)
            assert run
            instance.report_run_failed(run)
            [found] = finished_runs(instance, before, [])
            assert found.run_id == run_id
            assert abs(found.ended_at - before) < 60
            assert finished_runs(instance, before, [run_id]) == []
            assert finished_runs(instance, before + 2 * OVERLAP_S, []) == []


def test_a_long_history_is_read_whole(shop: Shop) -> None:
    """More runs than are read at once, as after a weekend without a daemon."""
    made = []
    for _ in range(130):
        run = shop.instance.get_run_by_id(record_run(shop.instance))
        assert run
        shop.instance.report_run_failed(run)
        made.append(run.run_id)
    assert [run.run_id for run in finished_runs(shop.instance, time.time(), made[:1])] == made[1:]
