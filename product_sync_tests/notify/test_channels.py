"""What docs/settings.md promises: a value that cannot be is refused by name before anything is read, and no channel's
mistake silences another."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from product_sync import api, cli
from product_sync.errors import ConfigurationError, ProductSyncError
from product_sync.notify.channels import resolve_channels
from product_sync.notify.dispatch import NotificationState
from product_sync.results import Report
from product_sync.settings import ExecutorSettings, PageSettings, ScheduleSettings
from product_sync.terminal import summaries
from product_sync_tests.docs.pages import codes, page
from product_sync_tests.market import clean_environment
from product_sync_tests.receivers import WebReceiver, web_receiver

#: Addresses that nobody answers at: whoever asks a server before the settings are checked ends with exit status 3.
NOBODY = {
    "PRODUCT_SERVICE_MONGODB_URL": "mongodb://127.0.0.1:1/shop?serverSelectionTimeoutMS=200",
    "CART_DB_URL": "postgresql://127.0.0.1:1/cart",
}
CHANNELS = {
    "PRODUCT_SYNC_ALERT_URLS": "nonsense://robot:sesame@host",
    "PRODUCT_SYNC_ALERT_QUIET_MINUTES": "1h",
    "PRODUCT_SYNC_ALERT_WARN_QUIET_MINUTES": "-1",
    "PRODUCT_SYNC_UI_URL": "dagster.example",
    "PRODUCT_SYNC_REPORTS_URL": "ftp://reports.example",
    "PRODUCT_SYNC_HEARTBEAT_URL": "https://hc.example:sesame/x",
    "PRODUCT_SYNC_METRICS_FILE": "/dev/null/product_sync.prom",
    "PRODUCT_SYNC_METRICS_PUSH_URL": "push:9091",
}
#: Checked with the other settings too, of which a sync names the first that is wrong.
LINKS = {"PRODUCT_SYNC_UI_URL", "PRODUCT_SYNC_REPORTS_URL"}
OF_A_RUN = CHANNELS | {
    "PRODUCT_SERVICE_MONGODB_URL": "mongodb://robot:sesame@host:27017",
    "MONGO_USER": "without a password",
    "MONGO_PASSWORD": "sesame",
    "CART_DB_URL": "mysql://robot:sesame@host/cart",
    "PRODUCT_SYNC_MAPPING": "/nowhere.yaml",
    "PRODUCT_SYNC_STATE": "/dev/null/state",
    "SYNC_BATCH_SIZE": "0",
    "SYNC_BATCH_DELAY_MS": "soon",
    "SYNC_PACING": "quick",
    "SYNC_SHARDS": "0",
    "SYNC_QUARANTINE_BUDGET": "2",
    "DAGSTER_HOME": "/nowhere",
}
OF_THE_DEFINITIONS = {
    "ENABLE_SCHEDULER": "maybe",
    "SYNC_CRON_SCHEDULE": "sometimes",
    "TIMEZONE": "Mars/Olympus",
    "SYNC_CHANGES_SECONDS": "-1",
    "SYNC_CHANGES_LAG_MINUTES": "0",
    "SYNC_FULL_PROOF_HOURS": "a day",
    "SYNC_EXECUTOR": "elsewhere",
    "SYNC_EXECUTOR_CONFIG": "/nowhere.yaml",
    "PRODUCT_SYNC_FRESH_MINUTES": "-1",
    "PRODUCT_SYNC_OWNERS": "somebody",
    "PRODUCT_SYNC_DOCS_URL": "docs.example",
}
#: Judged by others: the storage of Dagster, the servers of the demo, the folders of the operating system.
OF_OTHERS = {"DAGSTER_PG_URL", "PRODUCT_SYNC_MONGOD", "PRODUCT_SYNC_SCRATCH", "TMPDIR", "XDG_STATE_HOME"}


def test_every_variable_of_the_guide_is_tried_here() -> None:
    explained = {name for row in page("settings.md").rows("variable", "form") for name in codes(row["variable"])}
    explained |= {name for row in page("settings.md").rows("variable", "run config") for name in codes(row["variable"])}
    assert explained == OF_A_RUN.keys() | OF_THE_DEFINITIONS.keys() | OF_OTHERS


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all: making Dagster's local storage takes a second."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch, state: Path) -> Iterator[WebReceiver]:
    """This process's environment is that of a command without servers, and people are alerted here."""
    with web_receiver() as receiver:
        env = clean_environment() | NOBODY
        env |= {"PRODUCT_SYNC_STATE": str(state), "PRODUCT_SYNC_ALERT_URLS": receiver.apprise}
        env["PRODUCT_SYNC_ALERT_QUIET_MINUTES"] = "0"
        for name in os.environ.keys() - env.keys():
            monkeypatch.delenv(name)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        yield receiver


def test_a_wrong_value_is_refused_by_name_before_anything_is_read_and_somebody_is_alerted(
    web: WebReceiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # First the one without which a second alert would wait for its quiet time to end.
    for name in sorted(OF_A_RUN, key=lambda each: each != "PRODUCT_SYNC_ALERT_QUIET_MINUTES"):
        value, alerts_before = OF_A_RUN[name], len(web.alerts)
        with monkeypatch.context() as patch:
            # The right alert URL stays beside the wrong one.
            patch.setenv(name, f"{web.apprise} {value}" if name == "PRODUCT_SYNC_ALERT_URLS" else value)
            report = api.sync()
        assert report.failure, name
        assert (report.exit_status, report.failure.code) in ((2, "configuration"), (2, "mapping")), report.failure
        assert name in report.failure.message + report.failure.hint
        assert report.failure.hint
        [alert] = web.alerts[alerts_before:]
        assert alert["title"] == "product_sync: the job product_sync failed"
        assert name in alert["message"]
        assert "sesame" not in str(report) + str(alert) + caplog.text


def test_validation_refuses_a_wrong_channel_too(web: WebReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRODUCT_SYNC_HEARTBEAT_URL", "hc.example")
    assert api.validate().exit_status == 2
    assert web.titles() == ["the job validate_sync failed"]


def test_every_mistake_is_named_at_once_and_the_same_ones_by_doctor(
    web: WebReceiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PRODUCT_SYNC_STATE", str(tmp_path))
    wrong = {name: value for name, value in CHANNELS.items() if name not in LINKS}
    for name, value in wrong.items():
        monkeypatch.setenv(name, f"{web.apprise} {value}" if name == "PRODUCT_SYNC_ALERT_URLS" else value)
    refused, examined = api.sync(), api.doctor()
    assert refused.failure
    assert examined.failure
    assert len(examined.alert_problems) == len(wrong)
    for name in wrong:
        assert name in str(refused.failure)
        assert any(name in problem for problem in examined.alert_problems)
    assert examined.alerts == ["JSON (URL 1 of 2)"]
    assert "sesame" not in str(refused.failure) + str(examined)
    assert len(web.alerts) == 1


@pytest.mark.parametrize("name", OF_THE_DEFINITIONS)
def test_a_wrong_value_of_the_definitions_is_refused_when_they_are_loaded(name: str) -> None:
    from product_sync.orchestration.build import build_definitions
    from product_sync.orchestration.executor import executor_of
    from product_sync.orchestration.schedules import check_schedule
    from product_sync.schema.definition import load_definitions

    env = {name: OF_THE_DEFINITIONS[name]}

    def load() -> None:
        check_schedule(env)
        build_definitions(
            load_definitions({}),
            schedule=ScheduleSettings.from_environment(env),
            pages=PageSettings.from_environment(env),
            executor=executor_of(ExecutorSettings.from_environment(env)),
        )

    with pytest.raises(ConfigurationError, match=name):
        load()


def test_a_metrics_file_is_tried_and_leaves_nothing_behind(tmp_path: Path) -> None:
    right = {"PRODUCT_SYNC_METRICS_FILE": str(tmp_path / "product_sync.prom")}
    assert resolve_channels(right).mistakes == {}
    assert list(tmp_path.iterdir()) == []
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "no" / "folder.prom", "No such file or directory")):
        wrong = {"PRODUCT_SYNC_METRICS_FILE": str(path)}
        assert f"{str(path)!r}, which cannot be written: {why}." in str(resolve_channels(wrong).mistakes)
        assert resolve_channels(wrong | {"DAGSTER_HOME": "/dagster"}).mistakes == {}, "the code location writes it"
        assert resolve_channels(wrong | {"DAGSTER_HOME": "/dagster"}, writes_metrics=True).mistakes


@pytest.mark.parametrize(
    "url", ["https://h:port/x", "http://:80/", "ftp://h/", "http://h/a b", "https:///x", "h.example"]
)
def test_what_is_no_web_address_is_refused(url: str) -> None:
    assert resolve_channels({"PRODUCT_SYNC_HEARTBEAT_URL": url}).mistakes


class TestWhateverEndsACommand:
    """... reaches a person: a bug too, and where the state folder or the history of runs cannot be used."""

    @pytest.mark.parametrize(
        ("error", "command", "job"),
        [
            (ZeroDivisionError("sesame"), api.sync, "product_sync"),
            (MemoryError(), api.validate, "validate_sync"),
            (SystemExit("sesame"), api.sync, "product_sync"),
        ],
    )
    def test_an_error_that_is_not_ours(
        self,
        web: WebReceiver,
        monkeypatch: pytest.MonkeyPatch,
        error: BaseException,
        command: Callable[[], Report],
        job: str,
    ) -> None:
        def broken(*_: object) -> None:
            raise type(error)(*error.args)

        monkeypatch.setattr("product_sync.pipeline.preconditions.require_settings", broken)
        with pytest.raises(type(error)):
            command()
        [alert] = web.alerts
        assert alert["title"] == f"product_sync: the job {job} failed"
        assert f"The command ended with {type(error).__name__}" in alert["message"]
        assert "sesame" not in str(alert)

    def test_a_bug_in_the_work_is_one_failure_although_it_also_ends_the_command(
        self, web: WebReceiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def broken(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setenv("PRODUCT_SYNC_STATE", str(tmp_path / "state"))
        monkeypatch.setattr("product_sync.pipeline.preconditions.require_settings", broken)
        with pytest.raises(ZeroDivisionError):
            cli.main(["sync"])
        assert len(web.alerts) == 1
        stored = NotificationState.read((tmp_path / "state" / "notifications.json").read_text(), time.time())
        assert stored.metrics.syncs["product"].jobs["product_sync"].runs["failure"] == 1

    def test_an_error_after_the_work_and_a_flag_that_does_not_exist(
        self, web: WebReceiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise UnicodeError

        monkeypatch.setattr(summaries, "show_sync", broken)
        with pytest.raises(UnicodeError):
            cli.main(["sync"])
        assert len(web.alerts) == 2, "of the refusal, and of the bug in showing it"
        assert "The command ended with UnicodeError" in web.alerts[1]["message"]
        with pytest.raises(SystemExit):
            cli.main(["sync", "--batchsize", "5"])
        assert "--batchsize" in web.alerts[2]["message"]
        with pytest.raises(SystemExit):
            cli.main(["show", "--batchsize", "5"])
        assert len(web.alerts) == 3, "who shows something looks at it"

    def test_a_person_who_cancels_is_no_alert(self, web: WebReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
        def cancel(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("product_sync.pipeline.preconditions.require_settings", cancel)
        with pytest.raises(KeyboardInterrupt):
            api.sync()
        assert web.alerts == []

    def test_a_state_folder_that_cannot_be_used(self, web: WebReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PRODUCT_SYNC_STATE", "/dev/null/state")
        monkeypatch.setenv("CART_DB_URL", "")
        assert api.sync().exit_status == 2
        assert api.sync("sellers").exit_status == 2, "there is none"
        assert web.titles() == ["the job product_sync failed", "product_sync (sellers): the job sellers_sync failed"]

    def test_a_history_of_runs_that_cannot_be_read(
        self, web: WebReceiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PRODUCT_SYNC_STATE", str(tmp_path / "state"))
        storage = tmp_path / "state" / "dagster" / "history"
        storage.mkdir(parents=True)
        (storage / "runs.db").write_bytes(b"no database at all" * 100)
        report_or_error: object = None
        try:
            report_or_error = api.sync().failure
        except Exception as error:  # noqa: BLE001 - either way somebody has to hear of it
            report_or_error = error
        assert report_or_error
        assert web.titles() == ["the job product_sync failed"]

    def test_what_is_announced_by_another_command_is_waited_for_and_not_for_ever(
        self, web: WebReceiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        from filelock import FileLock

        from product_sync.orchestration import after_command

        monkeypatch.setattr(after_command, "LOCK_S", 0.2)
        with FileLock(tmp_path / "notifications.lock"):
            env = {**os.environ, "PRODUCT_SYNC_STATE": str(tmp_path)}
            after_command.notify_of_command(env, "product_sync", ProductSyncError("It failed."), datetime.now(UTC))
        assert web.titles() == ["the job product_sync failed"]
