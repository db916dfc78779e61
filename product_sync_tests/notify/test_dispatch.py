"""People are notified through real servers: once, again until it is accepted, and never with a secret in the log."""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from product_sync.notify.alerts import write_state
from product_sync.notify.dispatch import DispatchResult, NotificationState, notify_of_runs
from product_sync.notify.events import FinishedRun
from product_sync.settings import (
    ALERT_URLS,
    HEARTBEAT_URL,
    METRICS_FILE,
    METRICS_PUSH_URL,
    UI_URL,
    NotificationSettings,
)
from product_sync.verify.checks import CheckResult, Severity
from product_sync_tests.receivers import MailReceiver, WebReceiver, mail_receiver, web_receiver

LOG = logging.getLogger("product_sync.notify.dispatch")
MISSING = CheckResult(
    "target_matches_source",
    False,
    Severity.ERROR,
    {"missing": 2, "found": {"id": 9, "a": 0}, "missing_ids": ["p1", "p2"], "changed_ids": ["p3"], "baseline": None},
    "2 missing (first: p1, p2), 1 changed. Run product-sync sync.",
)
SECRETS = ("sesame", "opensesame", "robot")


def failed(run_id: str = "r1", at: float = 1_000_000.0) -> FinishedRun:
    return FinishedRun(run_id, "product_sync", succeeded=False, ended_at=at, checks=(MISSING,), loaded=True)


def passed(run_id: str = "r2", at: float = 1_000_060.0, **counts: float) -> FinishedRun:
    fine = CheckResult("target_matches_source", True, Severity.ERROR, {}, "The target agrees.")
    return FinishedRun(run_id, "product_sync", True, at, 1.5, checks=(fine,), counts=counts, loaded=True)


@pytest.fixture
def web() -> Iterator[WebReceiver]:
    with web_receiver() as receiver:
        yield receiver


@pytest.fixture
def mail() -> Iterator[MailReceiver]:
    with mail_receiver() as receiver:
        yield receiver


class Notifier:
    """Notifies with one state, which is written and read again between two rounds, as between two ticks."""

    def __init__(self, **env: str) -> None:
        self.env, self.stored = env, ""

    def notify(self, *runs: FinishedRun) -> DispatchResult:
        state = NotificationState.read(self.stored, 0.0)
        result = notify_of_runs(state, runs, NotificationSettings.from_environment(self.env), LOG)
        self.stored = write_state(state)
        return result


def test_an_alert_names_the_check_the_numbers_the_first_ids_the_run_and_the_next_step(web: WebReceiver) -> None:
    Notifier(**{ALERT_URLS: web.apprise, UI_URL: "https://dagster.example/"}).notify(failed())
    [alert] = web.alerts
    assert alert["title"] == "product_sync: target_matches_source failed"
    assert alert["type"] == "failure"
    assert alert["message"].splitlines() == [
        "2 missing (first: p1, p2), 1 changed. Run product-sync sync.",
        "https://dagster.example/runs/r1",
        "missing: 2, baseline: none",
        "found: id 9, a 0",
        "First changed: p3",
    ]


def test_a_long_alert_still_has_the_link_to_the_run_and_names_each_id_once(web: WebReceiver) -> None:
    ids = [f"65bb0df8ab6802a7c26c3{number:03}" for number in range(10)]
    numbers: dict[str, object] = {"missing_ids": ids, "extra_ids": ["x" * 300] * 10}
    check = replace(MISSING, description=f"10 missing (first: {', '.join(ids)}).", numbers=numbers)
    Notifier(**{ALERT_URLS: web.apprise, UI_URL: "https://dagster.example"}).notify(replace(failed(), checks=(check,)))
    [alert] = web.alerts
    assert "https://dagster.example/runs/r1" in alert["message"]
    assert alert["message"].count(ids[0] + ",") == 1


def test_every_address_gets_it_by_web_and_by_mail(web: WebReceiver, mail: MailReceiver) -> None:
    result = Notifier(**{ALERT_URLS: f"{web.apprise}, {mail.apprise}"}).notify(failed())
    assert result.waiting == 0, result
    assert len(web.alerts) == 1
    assert sorted(mail.recipients) == ["day@shop.example", "night@shop.example"]
    for subject, _, text in mail.mails:
        assert subject == "product_sync: target_matches_source failed"
        assert "First changed: p3" in text


def test_an_address_that_is_down_gets_it_when_it_is_back_and_the_others_get_it_once(
    web: WebReceiver, mail: MailReceiver
) -> None:
    notifier = Notifier(**{ALERT_URLS: f"{web.apprise} {mail.apprise}"})
    web.status = 503
    assert notifier.notify(failed()).waiting == 1
    assert notifier.notify().waiting == 1
    assert web.refused == 2
    web.status = 200
    assert notifier.notify().waiting == 0
    notifier.notify()
    assert web.titles() == ["target_matches_source failed"]
    assert len(mail.recipients) == 2, "an address that accepted it does not get it again"


def test_failure_and_recovery_reach_an_address_that_was_down_in_their_order(web: WebReceiver) -> None:
    notifier = Notifier(**{ALERT_URLS: web.apprise})
    web.status = 500
    notifier.notify(failed())
    notifier.notify(passed())
    web.status = 200
    notifier.notify()
    assert web.titles() == ["target_matches_source failed", "target_matches_source recovered"]
    assert web.alerts[1]["type"] == "success"


def test_a_run_that_its_check_failed_is_one_alert_and_a_run_without_a_check_one_of_its_own(web: WebReceiver) -> None:
    raised = FinishedRun("r9", "validate_sync", False, 1.0, failure="MongoDB cannot be reached. Start it.")
    Notifier(**{ALERT_URLS: web.apprise}).notify(failed(), raised)
    assert sorted(web.titles()) == ["target_matches_source failed", "the job validate_sync failed"]
    [alert] = [each for each in web.alerts if "job" in each["title"]]
    assert "MongoDB cannot be reached. Start it." in alert["message"]


def test_a_run_of_chosen_assets_that_failed_is_in_order_again_when_a_sync_is(web: WebReceiver) -> None:
    notifier = Notifier(**{ALERT_URLS: web.apprise})
    notifier.notify(FinishedRun("r1", "__ASSET_JOB", False, 1.0, failure="PostgreSQL cannot be reached."))
    assert web.titles() == ["a run launched by hand failed"]
    notifier.notify(FinishedRun("r2", "__ASSET_JOB", True, 2.0))
    assert len(web.alerts) == 1, "a run that materialises a snapshot is no sync"
    notifier.notify(passed("r3", 3.0))
    assert web.titles()[1:] == ["the job product_sync recovered"]


def test_the_alerts_of_another_sync_name_it_and_do_not_hold_back_those_of_the_first(web: WebReceiver) -> None:
    notifier = Notifier(**{ALERT_URLS: web.apprise})
    notifier.notify(failed())
    notifier.notify(replace(failed("r2"), job="seller_sync", sync="seller"))
    notifier.notify(passed("r3"))
    assert [alert["title"] for alert in web.alerts] == [
        "product_sync: target_matches_source failed",
        "product_sync (seller): target_matches_source failed",
        "product_sync: target_matches_source recovered",
    ]
    notifier.notify(replace(passed("r4"), job="seller_sync", sync="seller"))
    assert web.alerts[-1]["title"] == "product_sync (seller): target_matches_source recovered"
    notifier.notify(FinishedRun("r5", "__ASSET_JOB", False, 1_000_120.0, failure="It failed.", sync="seller"))
    notifier.notify(replace(passed("r6"), job="seller_sync", sync="seller"))
    assert web.alerts[-1]["title"] == "product_sync (seller): the job seller_sync recovered"


def test_a_run_that_a_person_cancelled_is_no_alert(web: WebReceiver) -> None:
    Notifier(**{ALERT_URLS: web.apprise}).notify(FinishedRun("r9", "product_sync", None, 1.0))
    assert web.alerts == []


def test_without_addresses_the_alert_is_in_the_log_with_how_to_set_them(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier()
    result = notifier.notify(failed())
    assert "2 missing (first: p1, p2)" in caplog.text
    assert ALERT_URLS in str(result)
    assert str(result).startswith("1 alert in the log.")
    caplog.clear()
    notifier.notify()
    assert caplog.text == "", "once"


@pytest.mark.parametrize("url", ["nonsense://robot:sesame@host/opensesame", "slack://opensesame", "sesame"])
def test_a_url_that_cannot_be_used_is_named_by_its_place_and_hides_no_other(
    url: str, web: WebReceiver, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    result = Notifier(**{ALERT_URLS: f"{web.apprise} {url}"}).notify(failed())
    assert len(web.alerts) == 1
    assert f"{ALERT_URLS}, URL 2 of 2" in str(result)
    said = caplog.text + str(result) + "".join(capfd.readouterr())
    assert not any(secret in said for secret in SECRETS)


def test_an_alert_waits_until_a_wrong_url_is_put_right(web: WebReceiver) -> None:
    notifier = Notifier(**{ALERT_URLS: "nonsense://host"})
    assert notifier.notify(failed()).waiting == 1
    notifier.env[ALERT_URLS] = web.apprise
    assert notifier.notify().waiting == 0
    assert web.titles() == ["target_matches_source failed"]


def test_no_secret_is_in_the_log_the_state_or_the_answer_when_an_address_refuses(
    web: WebReceiver, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    notifier = Notifier(**{ALERT_URLS: web.apprise})
    web.status = 401
    result = notifier.notify(failed())
    assert "JSON (URL 1 of 1) did not accept an alert: it answered 401" in caplog.text
    said = caplog.text.replace("127.0.0.1", "") + notifier.stored + str(result) + "".join(capfd.readouterr())
    assert not any(secret in said for secret in SECRETS), said


def test_the_heartbeat_is_called_after_a_verified_sync_and_after_nothing_else(web: WebReceiver) -> None:
    notifier = Notifier(**{HEARTBEAT_URL: f"{web.url}/ping/opensesame"})
    dry = FinishedRun("r3", "product_sync_dry_run", True, 1.0)
    for run in (failed(), dry, FinishedRun("r4", "product_sync", None, 1.0)):
        notifier.notify(run)
    assert web.requests == []
    notifier.notify(passed())
    notifier.notify()
    assert web.requests == [("GET", "/ping/opensesame", b"")]


def test_a_heartbeat_or_a_gateway_that_is_down_is_logged_and_no_more(
    web: WebReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    web.status = 500
    secret = f"{web.url}/opensesame"
    Notifier(**{HEARTBEAT_URL: secret, METRICS_PUSH_URL: secret, METRICS_FILE: "/dev/null/x"}).notify(passed())
    Notifier(**{HEARTBEAT_URL: "http://127.0.0.1:1/", METRICS_PUSH_URL: "http://127.0.0.1:1/"}).notify(passed())
    for problem in (
        "PRODUCT_SYNC_HEARTBEAT_URL answered 500.", "PRODUCT_SYNC_HEARTBEAT_URL cannot be reached",
        "PRODUCT_SYNC_METRICS_PUSH_URL answered 500.", "PRODUCT_SYNC_METRICS_PUSH_URL cannot be reached",
        "PRODUCT_SYNC_METRICS_FILE could not be written",
    ):  # fmt: skip
        assert problem in caplog.text
    assert "sesame" not in caplog.text


def samples(text: str) -> dict[tuple[str, ...], float]:
    """As Prometheus' own parser reads it, by name, sync, job if there is one, and the last label."""
    return {
        (
            sample.name.removeprefix("product_sync_"),
            *(sample.labels[label] for label in ("sync", "dagster_job") if label in sample.labels),
            *(value for label, value in sample.labels.items() if label not in ("sync", "dagster_job")),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class TestMetrics:
    def test_the_file_has_the_last_run_and_the_sums_of_all(self, tmp_path: Path) -> None:
        notifier = Notifier(**{METRICS_FILE: str(tmp_path / "product_sync.prom")})
        notifier.notify(passed("a", 100.0, inserted=5, updated=2, source_count=9, missing=5, failed_batches=0))
        notifier.notify(passed("b", 200.0, inserted=1, updated=0, source_count=10, missing=1, failed_batches=0))
        found = samples((tmp_path / "product_sync.prom").read_text())
        assert found["rows_total", "product", "inserted"] == 6
        assert found["last_run_rows", "product", "product_sync", "inserted"] == 1
        assert found["runs_total", "product", "product_sync", "success"] == 2
        assert found["products", "product", "product_sync", "source"] == 10
        assert found["differences", "product", "product_sync", "missing"] == 1
        assert found["last_run_batches", "product", "product_sync", "failed"] == 0
        assert found["last_run_duration_seconds", "product", "product_sync"] == 1.5
        assert found["check_passed", "product", "target_matches_source"] == 1
        assert [entry.name for entry in tmp_path.iterdir()] == ["product_sync.prom"]

    def test_a_failed_run_is_in_it_and_what_it_did_not_count_is_not_zero(self, tmp_path: Path) -> None:
        notifier = Notifier(**{METRICS_FILE: str(tmp_path / "product_sync.prom")})
        notifier.notify(passed("a", 100.0, source_count=9))
        notifier.notify(FinishedRun("b", "product_sync", False, 200.0, failure="MongoDB cannot be reached."))
        found = samples((tmp_path / "product_sync.prom").read_text())
        assert found["last_run_success", "product", "product_sync"] == 0
        assert found["last_run_timestamp_seconds", "product", "product_sync"] == 200
        assert found["last_success_timestamp_seconds", "product", "product_sync"] == 100
        assert found["runs_total", "product", "product_sync", "failure"] == 1
        assert ("products", "product", "product_sync", "source") not in found
        assert ("last_run_duration_seconds", "product", "product_sync") not in found

    def test_each_sync_has_its_own_numbers(self, tmp_path: Path) -> None:
        notifier = Notifier(**{METRICS_FILE: str(tmp_path / "product_sync.prom")})
        notifier.notify(passed("a", 100.0, inserted=5))
        notifier.notify(replace(failed("b", 200.0), job="seller_sync", counts={"inserted": 1}, sync="seller"))
        found = samples((tmp_path / "product_sync.prom").read_text())
        assert found["rows_total", "product", "inserted"] == 5
        assert found["rows_total", "seller", "inserted"] == 1
        assert found["check_passed", "product", "target_matches_source"] == 1
        assert found["check_passed", "seller", "target_matches_source"] == 0
        assert found["last_run_success", "seller", "seller_sync"] == 0

    def test_the_gateway_gets_the_same(self, web: WebReceiver) -> None:
        Notifier(**{METRICS_PUSH_URL: web.url}).notify(passed("a", 100.0, inserted=5))
        [(method, path, body)] = web.requests
        assert (method, path) == ("PUT", "/metrics/job/product_sync")
        assert samples(body.decode())["rows_total", "product", "inserted"] == 5

    def test_the_gateway_may_want_a_login(self, web: WebReceiver, caplog: pytest.LogCaptureFixture) -> None:
        url = web.url.replace("http://", "http://robot:open%2Fsesame@")
        Notifier(**{METRICS_PUSH_URL: url}).notify(passed("a", 100.0, inserted=5))
        assert web.authorizations == ["Basic " + b64encode(b"robot:open/sesame").decode()]
        assert [path for _, path, _ in web.requests] == ["/metrics/job/product_sync"]
        web.status = 401
        Notifier(**{METRICS_PUSH_URL: url}).notify(passed("b", 200.0))
        assert "PRODUCT_SYNC_METRICS_PUSH_URL answered 401." in caplog.text
        assert "sesame" not in caplog.text


def test_a_state_that_cannot_be_read_starts_anew() -> None:
    for text in (
        None,
        "",
        "{",
        "[]",
        '{"notified_until": 1, "seen": [], "alerts": 3, "metrics": {}}',
    ):
        assert NotificationState.read(text, 10_000.0) == NotificationState(10_000.0)


def test_a_run_dated_by_a_clock_that_was_ahead_does_not_hide_later_runs() -> None:
    ahead = NotificationState(notified_until=2_000_000.0)
    assert NotificationState.read(write_state(ahead), 10_000.0).notified_until == 10_000.0
    assert NotificationState.read(write_state(ahead), 3_000_000.0).notified_until == 2_000_000.0
