"""Without a daemon, a command sends its alerts itself, once; this never changes its own result."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from product_sync import sync
from product_sync.errors import ProductSyncError
from product_sync.orchestration.after_command import notify_of_command
from product_sync.orchestration.instance import open_instance
from product_sync.orchestration.names import PRODUCT
from product_sync.orchestration.schedules import unfinished_runs
from product_sync_tests.market import Market, product, products
from product_sync_tests.notify.test_dispatch import SECRETS, samples
from product_sync_tests.orchestration.test_notifications import Daemon
from product_sync_tests.receivers import WebReceiver, web_receiver
from product_sync_tests.run_history import put_history

BAD = product(7_000, price="a lot")
NOWHERE = "postgresql://syncer:sesame@127.0.0.1:1/cart"


@pytest.fixture
def web(market: Market, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebReceiver]:
    with web_receiver() as receiver:
        market.env["PRODUCT_SYNC_ALERT_URLS"] = receiver.apprise
        market.enter(monkeypatch)
        yield receiver


def test_a_failed_command_reaches_a_person_once_and_so_does_recovery(market: Market, web: WebReceiver) -> None:
    market.stock([product(1), BAD])
    web.status = 503
    outcome = market.run("sync", "--json")
    assert outcome.status == 1
    assert outcome.answer["error"]["code"] == "checks_failed"
    assert "The next command tries again." in outcome.stderr
    assert not any(secret in outcome.everything for secret in SECRETS)
    web.status = 200
    sync(settle_seconds=0)
    assert web.titles() == ["quarantine_within_budget failed"], "delivered late, and held back in the quiet time"
    assert "1 of 2 documents cannot be copied (wrong_type: 1)" in web.alerts[0]["message"]
    market.unstock({"_id": BAD["_id"]})
    assert sync(settle_seconds=0, accept_source_count=1).valid
    assert web.titles()[1:] == ["quarantine_within_budget recovered"]
    assert "Held back since the last message: 1 more failure." in web.alerts[1]["message"]


def test_what_failed_before_a_run_was_recorded_is_an_alert_too(
    market: Market, web: WebReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.stock(products(1))
    monkeypatch.setenv("CART_DB_URL", NOWHERE)
    report = sync()
    assert (report.exit_status, report.run_id) == (3, None)
    [alert] = web.alerts
    assert alert["title"] == "product_sync: the job product_sync failed"
    assert "cannot be reached" in alert["message"]
    assert "sesame" not in str(alert)
    monkeypatch.setenv("CART_DB_URL", market.cart_url)
    assert sync(settle_seconds=0).valid
    assert web.titles()[1:] == ["the job product_sync recovered"]


def test_a_run_whose_process_exits_in_mid_step_is_ended_and_is_an_alert(
    market: Market, web: WebReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(*_: object) -> None:
        raise SystemExit(7)

    market.stock(products(1))
    monkeypatch.setattr("product_sync.pipeline.run_checks.check_snapshot", leave)
    with pytest.raises(SystemExit):
        sync()
    [alert] = web.alerts
    assert alert["title"] == "product_sync: the job product_sync failed"
    assert "raised SystemExit. This is a bug." in alert["message"]
    with open_instance(market.env, market.state) as instance:
        assert not unfinished_runs(instance, [PRODUCT]), "else the queue and the schedule wait for it"


def test_monitors_hear_of_commands(
    market: Market, web: WebReceiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    market.stock([*products(150), BAD])
    monkeypatch.setenv("PRODUCT_SYNC_HEARTBEAT_URL", f"{web.url}/ping")
    monkeypatch.setenv("PRODUCT_SYNC_METRICS_FILE", str(tmp_path / "product_sync.prom"))
    assert sync(settle_seconds=0, batch_delay_ms=0).exit_status == 0
    assert ("GET", "/ping", b"") in web.requests
    found = samples((tmp_path / "product_sync.prom").read_text())
    assert found["rows_total", "product", "inserted"] == 150
    assert found["quarantined", "product", "product_sync"] == 1
    assert found["last_run_success", "product", "product_sync"] == 1
    assert found["check_passed", "product", "quarantine_within_budget"] == 0


def test_a_setting_that_cannot_be_is_logged_and_never_raised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    env = {"PRODUCT_SYNC_ALERT_URLS": "json://h", "PRODUCT_SYNC_ALERT_QUIET_MINUTES": "an hour"}
    env["PRODUCT_SYNC_STATE"] = str(tmp_path)
    notify_of_command(env, "product_sync", ProductSyncError("It failed."), datetime.now(UTC))
    assert "PRODUCT_SYNC_ALERT_QUIET_MINUTES is 'an hour'" in caplog.text


def test_the_alert_about_a_folder_that_does_not_exist_does_not_create_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    env = {"DAGSTER_HOME": str(tmp_path / "mistyped")}
    notify_of_command(env, "product_sync", ProductSyncError("It failed."), datetime.now(UTC))
    assert "There is no state folder: DAGSTER_HOME is" in caplog.text
    assert list(tmp_path.iterdir()) == [], "the next command would take it for a new instance"


@pytest.mark.parametrize("content", [b"", b"\0" * 90, b'{"notified_until": 1', b"\xff\xfe"])
def test_a_damaged_record_of_alerts_is_set_aside_and_started_anew(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "notifications.json").write_bytes(content)
    env = {"DAGSTER_HOME": str(tmp_path / "nowhere"), "PRODUCT_SYNC_STATE": str(tmp_path)}
    notify_of_command(env, "product_sync", ProductSyncError("It failed."), datetime.now(UTC))
    [aside] = tmp_path.glob("notifications.json.damaged-*")
    assert aside.read_bytes() == content
    assert f"has been set aside as {aside}. Alerts may come again" in caplog.text
    assert "It failed." in (tmp_path / "notifications.json").read_text()


def test_with_a_daemon_the_command_sends_only_what_no_run_shows(
    market: Market,
    web: WebReceiver,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put_history(tmp_path)
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    market.stock([BAD])
    assert sync(settle_seconds=0).exit_status == 1
    assert web.alerts == [], "the daemon's sensor sends this one"
    assert "No Dagster daemon is running for this instance" in caplog.text
    monkeypatch.setenv("CART_DB_URL", NOWHERE)
    assert sync().exit_status == 3
    assert web.titles() == ["the job product_sync failed"]
    monkeypatch.setenv("CART_DB_URL", market.cart_url)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        daemon = Daemon(instance)
        daemon.tick()
        daemon.tick()
    assert web.titles()[1:] == ["quarantine_within_budget failed"], "the daemon sends once what the command left to it"
