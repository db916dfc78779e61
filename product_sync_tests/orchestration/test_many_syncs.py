"""Two syncs in one project, products and sellers: each has its own names, runs, state and lock."""

import os
import re
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import psycopg
import pytest
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import ModuleTarget
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from pymongo import MongoClient

from product_sync.errors import ConfigurationError, Unreachable
from product_sync.orchestration.build import build_sync_definitions
from product_sync.orchestration.names import PRODUCT, SYNC_TAG, TABLE_TAG, SyncNames, syncs_of
from product_sync.orchestration.run_history import finished_runs, last_successful_sync
from product_sync.orchestration.sensors import reap_dead_runs_sensor
from product_sync.pipeline.databases import Databases
from product_sync.schema.definition import DEFAULT_MAPPING, load_definition, load_definitions
from product_sync.settings import PageSettings, ScheduleSettings
from product_sync_tests.orchestration.test_notifications import Daemon
from product_sync_tests.orchestration.test_server import wait_until
from product_sync_tests.receivers import web_receiver
from product_sync_tests.run_history import put_history
from product_sync_tests.shop import QUICK, Outcome, Shop, ids, product, project, record_run

SELLER = SyncNames.of("seller")
SELLERS = """
source: {collection: sellers}
target: {table: seller}
columns:
  id: {source: _id}
  name: {source: name}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two mapping files."""
    folder = tmp_path / "mappings"
    folder.mkdir()
    (folder / "product.yaml").write_text(DEFAULT_MAPPING.read_text())
    (folder / "seller.yaml").write_text(SELLERS)
    return folder


@pytest.fixture
def mall(shop: Shop, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Three products and two sellers. The target has none of them."""
    monkeypatch.setenv("PRODUCT_SYNC_MAPPING", str(folder))
    shop.put(*(product(name) for name in ids(3)))
    shop.sql("CREATE TABLE seller (id text PRIMARY KEY, name text NOT NULL)")
    with MongoClient[dict[str, Any]](shop.mongodb_url) as client:
        client.get_default_database()["sellers"].insert_many([{"_id": "s1", "name": "Sara"}, {"_id": "s2"}])
    return shop


def test_everything_of_a_sync_is_named_by_it_and_is_in_its_group(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRODUCT_SYNC_MAPPING", str(folder))
    defs = project(schedule=ScheduleSettings.from_environment({}), pages=PageSettings.from_environment({}))
    repository = defs.get_repository_def()
    groups: dict[str, set[str]] = {}
    for spec in defs.resolve_all_asset_specs():
        groups.setdefault(spec.group_name or "", set()).add(spec.key.to_user_string())
    assert groups == {
        "product_sync": {
            "mongodb_products", "postgres_product", "mongo_product_snapshot", "postgres_cart_snapshot", "product_diff",
            "product_load", "quarantined_products", "proven_copy", "drift_report", "health",
            "product_changes",
        },
        "seller_sync": {
            "mongodb_seller_source", "postgres_seller_target", "mongo_seller_snapshot", "postgres_seller_snapshot",
            "seller_diff", "seller_load", "seller_quarantine", "seller_proven_copy", "seller_drift_report",
            "seller_health", "seller_changes",
        },
    }  # fmt: skip
    assert {job.name for job in repository.get_all_jobs()} - {"__ASSET_JOB"} == {
        "product_sync", "product_sync_dry_run", "product_sync_changes", "validate_sync",
        "seller_sync", "seller_sync_dry_run", "seller_sync_changes", "validate_seller_sync",
    }  # fmt: skip
    assert {each.name for each in repository.schedule_defs} == {"product_sync_schedule", "seller_sync_schedule"}
    assert {each.name for each in repository.sensor_defs} == {
        "reap_dead_runs", "tell_of_runs", "product_sync_health", "seller_sync_health", "product_sync_watch",
        "seller_sync_watch",
    }  # fmt: skip
    checks = {key.name for key in defs.resolve_asset_graph().asset_check_keys if "seller" in str(key.asset_key)}
    assert checks == {key.name for key in defs.resolve_asset_graph().asset_check_keys}
    described = [
        *(spec.description for spec in defs.resolve_all_asset_specs() if spec.group_name == "seller_sync"),
        *(job.description for job in repository.get_all_jobs() if "seller" in job.name),
        *(sensor.description for sensor in repository.sensor_defs if "seller" in sensor.name),
    ]
    assert not [text for text in described if re.search(r"\bproducts?\b", text or "")], "they speak of sellers"


def test_each_job_syncs_its_own_table_and_keeps_its_own_state(mall: Shop) -> None:
    products, sellers = mall.run(), mall.run(SELLER.sync_job, quarantine_budget=1.0)
    assert (products.success, sellers.success) == (True, True), products.failures + sellers.failures
    assert set(mall.rows) == set(ids(3))
    assert mall.sql("SELECT * FROM seller") == [("s1", "Sara")]
    assert sellers.materialized.keys() >= {"mongo_seller_snapshot", "seller_load", "seller_proven_copy"}
    assert not sellers.materialized.keys() & {"product_load", "quarantined_products", "drift_report"}
    assert mall.frame(SELLER.quarantine)["source_key"].tolist() == ['"s2"']
    assert mall.frame(PRODUCT.quarantine).empty
    assert mall.frame(SELLER.diff)["new_name"].tolist() == ["Sara"]
    keys = [
        outcome.materialized[names.load]["state_key"] for outcome, names in [(products, PRODUCT), (sellers, SELLER)]
    ]
    assert {path.name for path in mall.state.iterdir() if path.is_dir()} >= set(keys)
    for outcome, names, key in zip((products, sellers), (PRODUCT, SELLER), keys, strict=True):
        run = mall.instance.get_run_by_id(outcome.run_id)
        assert run is not None
        assert (run.tags[SYNC_TAG], run.tags[TABLE_TAG]) == (names.sync, f"public.{names.sync}")
        assert (found := last_successful_sync(mall.instance, names, key))
        assert found.run_id == outcome.run_id
    told = {run.sync: (run.job, run.counts["inserted"]) for run in finished_runs(mall.instance, 0.0, ())}
    assert told == {"product": ("product_sync", 3), "seller": ("seller_sync", 1)}


def test_a_sync_that_cannot_run_does_not_stop_the_other(mall: Shop) -> None:
    mall.sql("DROP TABLE seller")
    assert not mall.run(SELLER.sync_job).success
    assert "There is no table public.seller" in mall.run(SELLER.validate_job).failures
    assert mall.run().success


def test_a_run_of_both_counts_for_each(mall: Shop) -> None:
    everything = [name for names in (PRODUCT, SELLER) for name in (
        names.source_snapshot, names.target_snapshot, names.diff, names.load, names.quarantine
    )]  # fmt: skip
    both = mall.materialize(*everything, quarantine_budget=1.0)
    assert both.success, both.failures
    told = {run.sync: run.counts["inserted"] for run in finished_runs(mall.instance, 0.0, (), [PRODUCT, SELLER])}
    assert told == {"product": 3, "seller": 1}


def test_the_alerts_and_the_health_of_a_sync_name_it(mall: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    mall.sql("INSERT INTO seller VALUES ('s1', 'Simon'), ('s2', 'Sue')")
    with web_receiver() as web:
        monkeypatch.setenv("PRODUCT_SYNC_ALERT_URLS", web.apprise)
        assert not mall.run(SELLER.validate_job, quarantine_budget=1.0).success
        assert not mall.run(PRODUCT.validate_job).success
        Daemon(mall.instance).tick()
        titles = {alert["title"]: alert["message"] for alert in web.alerts}
        assert {
            "product_sync: target_matches_source failed",
            "product_sync (seller): target_matches_source failed",
        } <= titles.keys()
        assert "1 changed (first: s1)" in titles["product_sync (seller): target_matches_source failed"]
        monkeypatch.setenv("CART_DB_URL", "postgresql://127.0.0.1:1/cart")
        repository = project().get_repository_def()
        with dg.build_sensor_context(mall.instance, repository_def=repository) as context:
            repository.get_sensor_def(SELLER.health_sensor).evaluate_tick(context)
        assert web.alerts[-1]["title"] == "product_sync (seller): the connection to PostgreSQL failed"


def test_a_schedule_waits_for_runs_of_its_own_sync_only(mall: Shop, tmp_path: Path) -> None:
    put_history(tmp_path)
    mall.instance = dg.DagsterInstance.local_temp(str(tmp_path))
    repository = project(schedule=ScheduleSettings.from_environment({})).get_repository_def()

    def tick(names: SyncNames) -> int:
        context = dg.build_schedule_context(instance=mall.instance, repository_def=repository)
        return len(repository.get_schedule_def(names.schedule).evaluate_tick(context).run_requests or ())

    record_run(mall.instance, job=SELLER.sync_job)
    assert (tick(PRODUCT), tick(SELLER)) == (1, 0)
    by_hand = record_run(mall.instance, job="__ASSET_JOB", assets=frozenset({dg.AssetKey(PRODUCT.load)}))
    assert (tick(PRODUCT), tick(SELLER)) == (0, 0)
    run = mall.instance.get_run_by_id(by_hand)
    assert run is not None
    assert syncs_of(run, [PRODUCT, SELLER]) == [PRODUCT]


def test_two_syncs_of_one_name_or_one_table_are_refused_by_name(folder: Path) -> None:
    from product_sync.errors import MappingError

    (folder / "third.yaml").write_text(SELLERS)
    with pytest.raises(MappingError, match=r"seller\.yaml and .*third\.yaml both have the target table public\.seller"):
        load_definitions({"PRODUCT_SYNC_MAPPING": str(folder)})
    (folder / "third.yaml").write_text("name: seller" + SELLERS.replace("table: seller", "table: other"))
    with pytest.raises(MappingError, match="both have the name seller"):
        load_definitions({}, folder)
    (folder / "third.yaml").write_text("name: Third Sync")
    (folder / "fourth.yaml").write_text("name: [")
    with pytest.raises(
        MappingError, match=r"(?s)fourth\.yaml, line 1: this is not valid YAML.*third\.yaml, line 1: name is "
    ) as all_faults:
        load_definitions({}, folder)
    assert "labels " not in str(all_faults.value)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    from product_sync.errors import MappingError

    with pytest.raises(MappingError, match="holds no mapping file"):
        load_definitions({}, tmp_path)


def test_two_syncs_fit_into_a_project_with_resources_and_assets_of_its_own(mall: Shop) -> None:
    """The project has a resource ``mongodb`` and an IO manager of its own, which its own assets use."""
    kept: dict[str, Any] = {}

    class InMemory(dg.IOManager):
        def handle_output(self, context: dg.OutputContext, obj: object) -> None:
            kept[context.asset_key.to_user_string()] = obj

        def load_input(self, context: dg.InputContext) -> object:
            return kept[context.asset_key.to_user_string()]

    @dg.asset
    def new_sellers(seller_diff: pd.DataFrame) -> pd.DataFrame:
        return seller_diff[["new_name"]]

    @dg.asset(required_resource_keys={"mongodb"})
    def greeting(context: dg.AssetExecutionContext, new_sellers: pd.DataFrame) -> str:
        return f"{context.resources.mongodb} welcomes {', '.join(new_sellers['new_name'])}"

    host = dg.Definitions(
        assets=[new_sellers, greeting], resources={"mongodb": "the host's", "sync": 1, "io_manager": InMemory()}
    )
    product_sync, seller_sync = (
        build_sync_definitions(each, options={"quarantine_budget": 1.0, "batch_size": 7})
        for each in load_definitions(os.environ)
    )
    merged = dg.Definitions.merge(host, product_sync, seller_sync)
    job = merged.resolve_implicit_global_asset_job_def()
    config = {"resources": {"product_sync": {"config": {**QUICK, "batch_size": 8}}}}
    result = job.execute_in_process(instance=mall.instance, run_config=config)
    assert result.success
    log = Outcome(mall.instance, result.run_id, result.success).log
    assert "Sync in batches of 8 rows" in log, "the run config overrides the options of the project"
    assert kept["greeting"] == "the host's welcomes Sara"
    assert set(mall.rows) == set(ids(3))
    assert len([each for each in merged.get_repository_def().sensor_defs if each.name == "tell_of_runs"]) == 1


@pytest.mark.parametrize(
    "single", [{"ids": ["a"]}, {"changes": True}, {"plan": "0" * 8 + "-0000-0000-0000-" + "0" * 12}]
)
def test_an_option_of_one_run_is_refused_for_every_run(single: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"every run of 'product' contain {next(iter(single))}"):
        build_sync_definitions(load_definition(), options=single)


def test_two_syncs_run_beside_each_other_where_the_queue_allows_it_and_two_of_one_table_never(
    mall: Shop, tmp_path: Path
) -> None:
    """Dagster's queue with a limit of two runs, its daemon, and each run in a process of its own."""
    put_history(tmp_path)
    (tmp_path / "dagster.yaml").write_text(
        "{concurrency: {runs: {max_concurrent_runs: 2}}, telemetry: {enabled: false}}"
    )
    target = ModuleTarget("product_sync.definitions", None, None, "product_sync")
    with (
        dg.DagsterInstance.from_config(str(tmp_path)) as instance,
        create_test_daemon_workspace_context(target, instance) as workspace,
        psycopg.connect(mall.cart_url) as migration,
    ):
        queue = QueuedRunCoordinatorDaemon(interval_seconds=1)

        def submit(names: SyncNames, **options: Any) -> str:
            context = workspace.create_request_context()
            [repository] = context.get_code_location("product_sync").get_repositories().values()
            remote = repository.get_full_job(names.sync_job)
            run = instance.create_run_for_job(
                project().resolve_job_def(names.sync_job),
                run_config={"resources": {"sync": {"config": {**QUICK, **options}}}},
                remote_job_origin=remote.get_remote_origin(),
                job_code_origin=remote.get_python_origin(),
            )
            instance.submit_run(run.run_id, context)
            return run.run_id

        def status(run_id: str) -> dg.DagsterRunStatus:
            list(queue.run_iteration(workspace))
            run = instance.get_run_by_id(run_id)
            assert run is not None
            return run.status

        migration.execute("LOCK TABLE product IN SHARE ROW EXCLUSIVE MODE")  # the first run waits in its load
        first = submit(PRODUCT, retry_s=3_600.0)
        holds_lock = Databases.of(load_definition(), os.environ).lock_holder
        wait_until(lambda: status(first) is dg.DagsterRunStatus.STARTED and holds_lock() is not None)
        again, sellers = submit(PRODUCT, lock_wait_s=0.0), submit(SELLER, quarantine_budget=1.0)
        assert (status(again), status(sellers)) != (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.QUEUED)
        wait_until(lambda: status(again) is dg.DagsterRunStatus.FAILURE)
        assert "public.product is being synced by product_sync" in Outcome(instance, again, False).failures
        wait_until(lambda: status(sellers) is dg.DagsterRunStatus.SUCCESS)
        assert mall.sql("SELECT * FROM seller") == [("s1", "Sara")]
        assert (status(first), mall.rows) == (dg.DagsterRunStatus.STARTED, {})
        migration.rollback()
        wait_until(lambda: status(first) is dg.DagsterRunStatus.SUCCESS)
    assert set(mall.rows) == set(ids(3))


def test_a_target_that_is_down_keeps_back_no_dead_run_of_another_sync(
    mall: Shop, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sellers = SELLERS.replace("table: seller", "table: seller, url_variable: SELLER_DB_URL")
    (folder / "seller.yaml").write_text(sellers)
    monkeypatch.setenv("SELLER_DB_URL", mall.cart_url)
    monkeypatch.setenv("CART_DB_URL", "postgresql://127.0.0.1:1/cart")
    monkeypatch.setattr("product_sync.orchestration.dead_runs.SILENCE_S", -1.0)
    asked_in_vain, silent = record_run(mall.instance), record_run(mall.instance, job=SELLER.sync_job)
    context = dg.build_sensor_context(mall.instance, repository_def=project().get_repository_def())
    with pytest.raises(Unreachable):
        reap_dead_runs_sensor(context)
    ended = [run.run_id for run in mall.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))]
    assert silent in ended
    assert asked_in_vain not in ended
