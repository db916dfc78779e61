"""The health sensor sends one alert about a failure and one about recovery, also while runs are in progress.
(With the daemon: `test_server.py`; what is checked: `product_sync_tests.support.test_health`.)"""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from product_sync.notify.alerts import Level, read_state, write_state
from product_sync.orchestration import names
from product_sync.orchestration.health_sensor import check_results, health_sensor
from product_sync.orchestration.names import PRODUCT
from product_sync.orchestration.ticks import Cursor
from product_sync.schema.definition import load_definition
from product_sync.support.health import ConnectionHealth
from product_sync_tests.receivers import WebReceiver, web_receiver
from product_sync_tests.shop import Shop, ids, product

NOWHERE = "postgresql://syncer:sesame@127.0.0.1:1/cart"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebReceiver]:
    with web_receiver() as receiver:
        monkeypatch.setenv("PRODUCT_SYNC_ALERT_URLS", receiver.apprise)
        yield receiver


class Daemon:
    """Evaluates the sensor as the daemon does, with the cursor of the last time."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: str | None = None
        self.recorded: list[dg.AssetObservation] = []
        self.checks: list[dict[str, dg.AssetCheckEvaluation]] = []

    def tick(self) -> str:
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor) as context:
            data = health_sensor(load_definition()).evaluate_tick(context)
        self.cursor = data.cursor
        if data.asset_events:
            observation, *evaluations = data.asset_events
            assert isinstance(observation, dg.AssetObservation)
            assert observation.asset_key == dg.AssetKey(PRODUCT.health)
            self.recorded.append(observation)
            self.checks.append(
                {each.check_name: each for each in evaluations if isinstance(each, dg.AssetCheckEvaluation)}
            )
        return data.skip_message or ""


def test_what_was_seen_is_said_and_recorded_once_while_it_stays_the_same(shop: Shop, web: WebReceiver) -> None:
    shop.put(*(product(name) for name in ids(3)))
    daemon = Daemon(shop.instance)
    said = daemon.tick()
    assert "about 3 documents; replica set product_sync, primary" in said
    assert "primary without replicas" in said
    daemon.tick()
    [record] = daemon.recorded
    values = {name: value.value for name, value in record.metadata.items()}
    assert values["mongodb_documents_about"] == 3
    assert str(values["mongodb"]).startswith("healthy: MongoDB ")
    assert values["postgres_replicas"] == 0
    assert web.alerts == []


def test_a_connection_that_is_lost_reaches_a_person_once_and_so_does_recovery(
    shop: Shop, web: WebReceiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = Daemon(shop.instance)
    daemon.tick()
    monkeypatch.setenv("CART_DB_URL", NOWHERE)
    said = [daemon.tick() for _ in range(3)]
    [alert] = web.alerts
    assert alert["title"] == "product_sync: the connection to PostgreSQL failed"
    assert "PostgreSQL at 127.0.0.1:1/cart cannot be reached" in alert["message"]
    assert "Check that the server runs and that CART_DB_URL names it" in alert["message"]
    monkeypatch.setenv("CART_DB_URL", shop.cart_url)
    daemon.tick()
    daemon.tick()
    assert web.titles()[1:] == ["the connection to PostgreSQL recovered"]
    assert "Held back since the last message: 2 more failures." in web.alerts[1]["message"]
    states = [str(record.metadata["postgres"].value).partition(":")[0] for record in daemon.recorded]
    assert states == ["healthy", "failed", "healthy"], "recorded when it changes"
    everything = f"{said} {web.alerts} {daemon.cursor} {daemon.recorded} {caplog.text}"
    assert "sesame" not in everything


def test_it_looks_beside_a_run_that_holds_the_queue_and_the_lock(shop: Shop, web: WebReceiver) -> None:
    """It takes neither: what a run would wait for, it does not."""
    with shop.locked():
        assert "primary without replicas" in Daemon(shop.instance).tick()
    assert shop.instance.get_run_records() == []
    assert web.alerts == []


def test_an_alert_that_was_not_accepted_is_sent_again_at_the_next_evaluation(
    shop: Shop, web: WebReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(shop.instance)
    monkeypatch.setenv("CART_DB_URL", NOWHERE)
    web.status = 503
    assert "it answered 503" in daemon.tick()
    web.status = 200
    daemon.tick()
    assert web.titles() == ["the connection to PostgreSQL failed"]


def test_a_server_that_is_down_turns_its_asset_red_and_health_and_no_other(
    shop: Shop, web: WebReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.put(product("p1"))
    daemon = Daemon(shop.instance)
    daemon.tick()
    monkeypatch.setenv("CART_DB_URL", NOWHERE)
    daemon.tick()
    daemon.tick()
    monkeypatch.setenv("CART_DB_URL", shop.cart_url)
    daemon.tick()
    fine, down, again = daemon.checks
    assert all(check.passed for check in [*fine.values(), *again.values()])
    assert {name: check.passed for name, check in down.items()} == {
        names.MONGODB_CONNECTION: True,
        names.POSTGRES_CONNECTION: False,
        names.BOTH_CONNECTIONS: False,
    }
    red = down[names.POSTGRES_CONNECTION]
    assert (red.asset_key, red.severity) == (dg.AssetKey(PRODUCT.target), dg.AssetCheckSeverity.ERROR)
    assert "cannot be reached" in (red.description or "")
    assert "sesame" not in str(red)
    assert fine[names.MONGODB_CONNECTION].metadata["mongodb_documents_about"].value == 1
    assert web.titles() == ["the connection to PostgreSQL failed", "the connection to PostgreSQL recovered"]


def test_a_member_that_is_unsound_is_a_warning() -> None:
    unsound = ConnectionHealth("mongodb", Level.WARN, "A member is away.")
    sound = ConnectionHealth("postgres", Level.OK, "PostgreSQL 18.")
    made = {
        check.check_name: (check.passed, check.severity)
        for check in check_results(dg.AssetCheckEvaluation, PRODUCT, [unsound, sound])
    }
    assert made[names.MONGODB_CONNECTION] == (False, dg.AssetCheckSeverity.WARN)
    assert made[names.BOTH_CONNECTIONS] == (False, dg.AssetCheckSeverity.WARN)
    assert made[names.POSTGRES_CONNECTION][0]


def test_without_addresses_the_page_of_the_sensor_says_how_to_set_them(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PRODUCT_SYNC_ALERT_URLS", raising=False)
    monkeypatch.setenv("CART_DB_URL", NOWHERE)
    assert "1 alert in the log. Set PRODUCT_SYNC_ALERT_URLS to have alerts sent" in Daemon(shop.instance).tick()


def test_a_setting_of_the_alerts_that_cannot_be_keeps_it_neither_from_looking_nor_from_alerting(
    shop: Shop, web: WebReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = Daemon(shop.instance)
    monkeypatch.setenv("PRODUCT_SYNC_ALERT_QUIET_MINUTES", "an hour")
    monkeypatch.setenv("CART_DB_URL", NOWHERE)
    said = daemon.tick()
    assert "cannot be reached" in said
    assert "PRODUCT_SYNC_ALERT_QUIET_MINUTES is 'an hour'" in said
    assert len(daemon.recorded) == 1
    assert web.titles() == ["the connection to PostgreSQL failed"]
    monkeypatch.setenv("PRODUCT_SYNC_ALERT_QUIET_MINUTES", "60")
    daemon.tick()
    assert len(web.alerts) == 1


def test_what_stays_the_same_is_recorded_once_an_hour_and_what_changes_at_once() -> None:
    state, hour = Cursor(), 3600.0
    assert state.must_record("fine", 0.0, hour)
    recorded = [state.must_record("fine", minute * 60.0, hour) for minute in range(5, 24 * 60, 5)]
    assert sum(recorded) == 24 - 1
    assert state.must_record("failed", 24 * hour, hour)
    assert not state.must_record("failed", 24 * hour + 300, hour)
    assert state.must_record("fine", 24 * hour + 600, hour)
    assert state.must_record("fine", 60.0, hour), "the clock was set back"
    assert read_state(Cursor(), write_state(state)) == state


def test_a_cursor_that_cannot_be_read_starts_anew() -> None:
    for text in (
        None,
        "",
        "[]",
        '{"alerts": 3}',
        '{"alerts": {"subjects": {}, "outbox": [], "dropped": 0}, "of_an_older_version": 1}',
    ):
        assert read_state(Cursor(), text) == Cursor()
