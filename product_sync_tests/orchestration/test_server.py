"""A real webserver with a real daemon, the project's ``dagster.yaml`` and Dagster's storage on PostgreSQL.

What the UI does goes through GraphQL, so the tests speak it: Materialize, execute a check, launch, Terminate, the
schedule. One pair of processes serves all tests of this module; each of them leaves the two sides equal.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from pymongo import MongoClient

from product_sync.embedded.process import free_port
from product_sync.embedded.servers import Servers
from product_sync.orchestration import names
from product_sync.orchestration.dead_runs import reap_dead_runs
from product_sync.orchestration.names import PRODUCT
from product_sync.settings import RunOptions
from product_sync_tests import market
from product_sync_tests.databases import cart_database, create_product_table, mongodb_database
from product_sync_tests.docs.pages import Page
from product_sync_tests.receivers import MailReceiver, WebReceiver, mail_receiver, web_receiver
from product_sync_tests.shop import Outcome, Shop, ids, product

ROOT = Path(__file__).parents[2]
DAGSTER = str(Path(sys.executable).with_name("dagster"))
QUICK: dict[str, Any] = {"batch_delay_ms": 0, "settle_seconds": 0.0}
#: A batch a second: long enough for whatever is to happen meanwhile, however busy the machine.
MANY = 60
SLOW: dict[str, Any] = {"batch_size": 1, "batch_delay_ms": 1000, "settle_seconds": 0.0}
LAUNCH = """
mutation ($parameters: ExecutionParams!) {
  launchRun(executionParams: $parameters) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
TERMINATE = "mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"
START_SCHEDULE = "mutation ($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) { __typename } }"
START_SENSOR = "mutation ($selector: SensorSelector!) { startSensor(sensorSelector: $selector) { __typename } }"
STOP_SENSOR = "mutation ($id: String!) { stopSensor(id: $id) { __typename } }"
WATCH = """
query ($selector: SensorSelector!) {
  sensorOrError(sensorSelector: $selector) {
    ... on Sensor { id sensorState { ticks(limit: 1000) { status skipReason } } }
  }
}
"""
#: Seconds between two looks of the watch, and until an event counts as lost. Dagster's daemon has sensors every 5 s.
LOOK_S, SETTLE_S, DAEMON_S = 2, 1, 5
LOCATION = {"repositoryLocationName": "product_sync", "repositoryName": "__repository__"}


@dataclass
class Server:
    """The webserver's GraphQL, and the shop that its runs work on."""

    url: str
    shop: Shop
    web: WebReceiver
    mail: MailReceiver
    pid: int

    def processes(self) -> set[int]:
        """The webserver, the daemon, the code server and the runs, with all that they have started."""
        return {child.pid for child in psutil.Process(self.pid).children(recursive=True)}

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})  # noqa: S310 - our own
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own
                content: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as refused:  # status 500 for an error of Python in a mutation
            content = json.load(refused)
        assert "errors" not in content, content
        data: dict[str, Any] = content["data"]
        return data

    def launch(self, job: str, sync: dict[str, Any] | None = None, **selection: object) -> str:
        """Launch a run as the UI does; returns its id. ``selection`` is of assets or checks."""
        config = {"resources": {"sync": {"config": QUICK if sync is None else sync}}}
        selector = {**LOCATION, "jobName": job, **selection}
        launched = self.ask(LAUNCH, parameters={"selector": selector, "runConfigData": config})["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def record(self, run_id: str) -> dg.RunRecord:
        record = self.shop.instance.get_run_record_by_id(run_id)
        assert record is not None
        return record

    def status(self, run_id: str) -> dg.DagsterRunStatus:
        return self.record(run_id).dagster_run.status

    def finished(self, run_id: str) -> Outcome:
        wait_until(lambda: self.record(run_id).dagster_run.is_finished)
        return Outcome(self.shop.instance, run_id, self.record(run_id).dagster_run.is_success)


#: The daemon, the web server and each run are processes of their own: on a busy machine they take their time.
wait_until = partial(market.wait_until, seconds=240.0)


@pytest.fixture(scope="module")
def server(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    (home / "dagster.yaml").write_bytes((ROOT / "dagster.yaml").read_bytes())
    port = free_port()
    with (
        mongodb_database(servers) as mongodb_url,
        cart_database(servers) as cart_url,
        cart_database(servers) as storage_url,
        web_receiver() as web,
        mail_receiver() as mail,
        pytest.MonkeyPatch.context() as patch,
    ):
        create_product_table(cart_url)
        with MongoClient[dict[str, Any]](mongodb_url) as client:
            client.get_default_database().create_collection("products")
        environment = {
            "PRODUCT_SERVICE_MONGODB_URL": mongodb_url,
            "CART_DB_URL": cart_url,
            "PRODUCT_SYNC_STATE": str(home / "state"),
            "DAGSTER_HOME": str(home),
            "DAGSTER_PG_URL": storage_url.replace("postgresql://", "postgresql+psycopg2://"),
            "SYNC_CRON_SCHEDULE": "* * * * *",
            "SYNC_BATCH_DELAY_MS": "0",
            "SYNC_CHANGES_SECONDS": str(LOOK_S),
            "SYNC_SETTLE_SECONDS": str(SETTLE_S),
            "PRODUCT_SYNC_ALERT_URLS": f"{web.apprise} {mail.apprise}",
            "PRODUCT_SYNC_ALERT_QUIET_MINUTES": "0",
            "PRODUCT_SYNC_UI_URL": f"http://127.0.0.1:{port}",
        }
        for variable, value in environment.items():
            patch.setenv(variable, value)
        with (
            dg.DagsterInstance.from_config(str(home)) as instance,
            dagster_dev(home, port) as pid,
        ):
            shop = Shop(mongodb_url, cart_url, home / "state", instance)
            yield Server(f"http://127.0.0.1:{port}/graphql", shop, web, mail, pid)


@contextmanager
def dagster_dev(home: Path, port: int) -> Iterator[int]:
    """``dagster dev`` with the project's workspace, until the block ends; its process."""
    command = [DAGSTER, "dev", "-w", str(ROOT / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(port)]
    log = home / "dagster-dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=home)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5):
                return True
        except OSError:
            return False

    try:
        wait_until(answers)
        yield process.pid
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        finally:
            process.kill()


def test_what_the_ui_and_a_program_launch_runs_one_after_the_other(server: Server) -> None:
    """The program types the commands of the guide. (A dry run by Materialize: `test_dry_run.py`.)"""
    shop = server.shop
    shop.put(*(product(name) for name in ids(5)))
    pipeline = [
        {"path": [name]}
        for name in (
            PRODUCT.source_snapshot,
            PRODUCT.target_snapshot,
            PRODUCT.diff,
            PRODUCT.load,
            PRODUCT.quarantine,
        )
    ]
    checks = [{"assetKey": {"path": [PRODUCT.load]}, "name": names.TARGET_MATCHES_SOURCE}]
    start, ended = (fence.text for fence in Page(ROOT / "docs/programs.md").fences if "/graphql" in fence.text)

    def type_it(command: str, **instead: str) -> dict[str, Any]:
        for shown, meant in {"http://localhost:3000/graphql": server.url, **instead}.items():
            assert shown in command
            command = command.replace(shown, meant)
        done = subprocess.run(["bash", "-c", command.removeprefix("$ ")], check=True, capture_output=True, text=True)
        data: dict[str, Any] = json.loads(done.stdout)["data"]
        return data

    def run_id_of(launched: dict[str, Any]) -> str:
        return str(launched["launchRun"]["run"]["runId"])

    def at_its_end(run_id: str) -> tuple[list[str], dict[str, int]]:
        """The messages of a run and the counts of its load, as the second command shows them."""
        wait_until(lambda: type_it(ended, RUN_ID=run_id)["runOrError"]["status"] in ("SUCCESS", "FAILURE"))
        run = type_it(ended, RUN_ID=run_id)["runOrError"]
        assert run["status"] == "SUCCESS"
        events = run["eventConnection"]["events"]
        of_load = [event for event in events if event.get("assetKey") == {"path": [PRODUCT.load]}]
        counts = [entry for event in of_load for entry in event["metadataEntries"] if "intValue" in entry]
        messages = [event["message"] for event in events if "message" in event]
        return messages, {entry["label"]: entry["intValue"] for entry in counts}

    dry = run_id_of(type_it(start))
    check = server.launch("__ASSET_JOB", assetSelection=[], assetCheckSelection=checks)
    materialize = server.launch("__ASSET_JOB", assetSelection=pipeline)
    wait_until(lambda: server.status(dry) is not dg.DagsterRunStatus.QUEUED)
    assert server.status(materialize) is dg.DagsterRunStatus.QUEUED, "it waits for the others"

    said, would = at_its_end(dry)
    assert said[0].startswith("Dry run: nothing is written.")
    assert (would["missing"], would["inserted"]) == (5, 0)
    assert server.record(dry).dagster_run.tags[names.DRY_RUN_TAG] == "true"
    assert PRODUCT.load not in server.finished(dry).materialized

    checked = server.finished(check)
    assert not checked.success
    assert set(checked.checks) == {names.TARGET_MATCHES_SOURCE}
    assert checked.checks[names.TARGET_MATCHES_SOURCE].metadata["missing"].value == 5, "the dry run wrote nothing"

    assert server.finished(materialize).materialized[PRODUCT.load]["inserted"] == 5
    assert sorted(shop.rows) == ids(5)
    times = [(server.record(run).start_time, server.record(run).end_time) for run in (dry, check, materialize)]
    for (_, ended_at), (started_at, _) in pairwise(times):
        assert ended_at is not None
        assert started_at is not None
        assert ended_at <= started_at

    shop.put(product("http"))
    _, done = at_its_end(run_id_of(type_it(start, **{'"dryRun": true': ""})))
    assert done["inserted"] == 1
    assert "http" in shop.rows

    refused = type_it(start, **{'"dryRun"': '"dryrun"'})["launchRun"]
    assert refused["__typename"] == "RunConfigValidationInvalid"
    assert 'unexpected config entry "dryrun"' in refused["errors"][0]["message"]


SCHEMA = """
query ($selector: PipelineSelector!) {
  runConfigSchemaOrError(selector: $selector) {
    ... on RunConfigSchema {
      rootConfigType { ... on CompositeConfigType { fields { name isRequired description configType { key } } } }
    }
  }
}
"""


def test_the_launchpad_shows_the_options_and_refuses_a_value_that_cannot_be(server: Server) -> None:
    asked = server.ask(SCHEMA, selector={**LOCATION, "pipelineName": PRODUCT.sync_job})
    shown = {field["name"]: field for field in asked["runConfigSchemaOrError"]["rootConfigType"]["fields"]}
    for name, option in RunOptions.each().items():
        assert shown[name]["description"] == option.help
        assert not shown[name]["isRequired"]
        assert "Any" not in shown[name]["configType"]["key"], name

    runs = len(server.shop.instance.get_runs())
    for name, value, answer, said in (
        ("batch_size", "lots", "RunConfigValidationInvalid", "lots"),
        ("pacing", "slow", "RunConfigValidationInvalid", "fixed_or_adaptive"),
        ("batch_size", 0, "PythonError", "batch_size is 0. Expected: a whole number, 1 to 100000 (rows)."),
    ):
        for config in ({name: value}, {"resources": {"sync": {"config": {name: value}}}}):
            parameters = {"selector": {**LOCATION, "jobName": PRODUCT.sync_job}, "runConfigData": config}
            refused = server.ask(LAUNCH, parameters=parameters)["launchRun"]
            assert refused["__typename"] == answer, refused
            assert said in json.dumps(refused)
    assert len(server.shop.instance.get_runs()) == runs


def test_terminate_rolls_back_frees_the_lock_and_the_next_run_converges(server: Server) -> None:
    shop = server.shop
    shop.put(*(product(f"t{number}") for number in range(MANY)))
    run_id = server.launch(PRODUCT.sync_job, SLOW)
    wait_until(lambda: "t1" in shop.rows)
    assert server.ask(TERMINATE, run=run_id)["terminateRun"]["__typename"] == "TerminateRunSuccess"
    wait_until(lambda: server.record(run_id).dagster_run.is_finished)
    assert server.status(run_id) is dg.DagsterRunStatus.CANCELED
    assert f"t{MANY - 1}" not in shop.rows
    terminated = server.finished(run_id)
    assert terminated.observed[PRODUCT.load]["inserted"] == sum(f"t{number}" in shop.rows for number in range(MANY))
    assert "The run was interrupted. The current batch was rolled back. Written before that" in terminated.log
    assert shop.run().success
    assert {f"t{number}" for number in range(MANY)} <= set(shop.rows)


def test_a_killed_run_is_marked_as_failed_and_the_queue_goes_on(server: Server) -> None:
    shop = server.shop
    shop.put(*(product(f"k{number}") for number in range(MANY)))
    run_id = server.launch(PRODUCT.sync_job, SLOW)
    wait_until(lambda: "k1" in shop.rows)
    process, _, _ = server.record(run_id).dagster_run.tags[names.PROCESS_TAG].partition("@")
    os.kill(int(process), signal.SIGKILL)
    after = server.launch(PRODUCT.sync_job)
    # The sensor looks every 30 seconds; this is what it does.
    wait_until(
        lambda: (
            run_id in reap_dead_runs(shop.instance, PRODUCT, lock_is_free=lambda: False)
            or server.status(run_id).value == "FAILURE"
        )
    )
    assert server.status(run_id) is dg.DagsterRunStatus.FAILURE
    assert server.finished(after).success
    assert {f"k{number}" for number in range(MANY)} <= set(shop.rows)


def test_the_daemon_tells_a_person_of_each_failure_and_each_recovery_once(server: Server) -> None:
    """Of runs that the UI launched (the tests above) and of those that are executed beside the queue, as the command
    line does; and again until it is taken."""
    shop, web = server.shop, server.web
    # Whoever looked first said so: we, or the code server that had started it.
    killed = "This run was ended from outside: its process"
    wait_until(lambda: any(killed in alert["message"] for alert in web.alerts))
    web.status = 503
    shop.put(product("alerted"))
    failed = shop.run(PRODUCT.validate_job)
    assert not failed.success
    wait_until(lambda: any(failed.run_id in text for _, _, text in server.mail.mails))
    assert web.refused
    web.status = 200
    assert shop.run().success
    wait_until(lambda: "target_matches_source recovered" in titles_since(web, failed.run_id))
    assert any(title.startswith("the job product_sync ") and title.endswith("recovered") for title in web.titles())

    [alert] = [each for each in web.alerts if failed.run_id in each["message"]]
    assert alert["title"] == "product_sync: target_matches_source failed"
    for part in (
        "1 missing (first: alerted)",
        "Run `product-sync sync`",
        f"{server.url.removesuffix('/graphql')}/runs/",
    ):
        assert part in alert["message"]
    mails = [recipients for _, recipients, text in server.mail.mails if failed.run_id in text]
    assert sorted(mails) == [["day@shop.example"], ["night@shop.example"]]
    bodies = [alert["message"] for alert in web.alerts]
    assert len(bodies) == len(set(bodies)), "nothing is told twice"


def test_the_daemon_looks_at_both_connections(server: Server) -> None:
    """No run is made for it."""

    def seen() -> list[str]:
        found = server.shop.instance.fetch_observations(dg.AssetKey(PRODUCT.health), limit=1).records
        [*looks] = [record.asset_observation.metadata for record in found if record.asset_observation]
        return [str(look[side].value) for look in looks for side in ("mongodb", "postgres")]

    wait_until(lambda: bool(seen()))
    assert [look.partition(" ")[0] for look in seen()] == ["healthy:", "healthy:"], seen()


def titles_since(web: WebReceiver, run_id: str) -> list[str]:
    """Of the alerts that came after the one about this run."""
    about = [place for place, alert in enumerate(web.alerts) if run_id in alert["message"]]
    return web.titles()[about[0] + 1 :] if about else []


def test_the_watch_repairs_a_lost_event_in_time_and_starts_no_process_for_anything_else(server: Server) -> None:
    shop, selector = server.shop, {**LOCATION, "sensorName": PRODUCT.watch_sensor}

    def watch() -> dict[str, Any]:
        found: dict[str, Any] = server.ask(WATCH, selector=selector)["sensorOrError"]
        return found

    def looks() -> list[str]:
        """What the ticks said, the newest first."""
        return [str(tick["skipReason"]) for tick in watch()["sensorState"]["ticks"] if tick["status"] == "SKIPPED"]

    def wait_for_a_look() -> None:
        before = len(looks())
        wait_until(lambda: len(looks()) > before)

    shop.put(product("lost"), product("arrived"))
    assert shop.run().success
    server.ask(START_SENSOR, selector=selector)
    shop.put(product("lost", price=7), product("arrived", price=7))
    shop.sql("UPDATE product SET price = 7 WHERE id = 'arrived'")
    lost_at = time.time()
    wait_until(lambda: shop.rows["lost"][0] == 7)
    took_s = time.time() - lost_at
    passes = dg.RunsFilter(job_name=PRODUCT.changes_job)
    [record] = shop.instance.get_run_records(passes)
    repaired = server.finished(record.dagster_run.run_id)
    assert (repaired.success, repaired.materialized[PRODUCT.load]["updated"]) == (True, 1)
    ended = server.record(record.dagster_run.run_id).end_time
    assert ended is not None
    run_s = ended - record.create_timestamp.timestamp()
    assert took_s < LOOK_S + SETTLE_S + DAEMON_S + run_s + DAEMON_S, f"a run of {run_s:.1f} s"

    wait_for_a_look()
    before = server.processes()
    shop.put(product("arrived", price=8))
    shop.sql("UPDATE product SET price = 8 WHERE id = 'arrived'")
    wait_for_a_look()
    assert looks()[0].endswith("0 differ.")
    assert server.processes() == before
    assert len(shop.instance.get_run_records(passes)) == 1
    server.ask(STOP_SENSOR, id=watch()["id"])


def test_the_daemon_runs_the_schedule(server: Server) -> None:
    server.shop.put(product("scheduled"))
    selector = {**LOCATION, "scheduleName": "product_sync_schedule"}
    started = server.ask(START_SCHEDULE, selector=selector)["startSchedule"]
    assert started["__typename"] == "ScheduleStateResult"
    by_schedule = dg.RunsFilter(tags={"dagster/schedule_name": "product_sync_schedule"})
    # The row may come from the last look of the watch: its sensor was at work when it was stopped.
    wait_until(lambda: server.shop.instance.get_run_records(by_schedule))
    [record, *_] = server.shop.instance.get_run_records(by_schedule)
    assert server.finished(record.dagster_run.run_id).success
    assert "scheduled" in server.shop.rows
