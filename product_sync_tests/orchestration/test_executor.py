"""Which executor runs the steps, and what all of them have: a run knows its process, a step ends with its run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from sqlalchemy.exc import OperationalError

from product_sync.errors import ConfigurationError, SyncCancelled
from product_sync.orchestration import dead_runs, executor, names
from product_sync.orchestration.build import build_definitions, build_sync_definitions
from product_sync.orchestration.dead_runs import ends_with_its_run, process_tags
from product_sync.orchestration.executor import executor_of, in_charge
from product_sync.orchestration.names import PRODUCT
from product_sync.orchestration.run_history import last_event_at
from product_sync.schema.definition import load_definition, load_definitions
from product_sync.settings import EXECUTOR, EXECUTOR_CONFIG, ExecutorSettings
from product_sync_tests.deploy import ROOT
from product_sync_tests.market import wait_until
from product_sync_tests.shop import record_run
from product_sync_tests.workers import celery_config

_CELERY = "execution: {config: {broker: 'redis://redis.example:6379/0', backend: 'redis://redis.example:6379/1'}}"
_K8S = "execution: {config: {job_namespace: shop, max_concurrent: 8, step_k8s_config: {container_config: {}}}}"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as opened:
        yield opened


def settings(name: str, content: str, folder: Path) -> ExecutorSettings:
    (folder / "executor.yaml").write_text(content)
    file = {EXECUTOR_CONFIG: str(folder / "executor.yaml")} if content else {}
    return ExecutorSettings.from_environment({EXECUTOR: name, **file})


@pytest.mark.parametrize(
    ("name", "content", "called"),
    [
        ("", "", "multi_or_in_process_executor"),
        ("multiprocess", "execution: {config: {multiprocess: {max_concurrent: 2}}}", "multi_or_in_process_executor"),
        ("celery", _CELERY, "celery"),
        ("k8s", _K8S, "k8s"),
        ("celery_k8s", _CELERY.replace("backend", "job_namespace: shop, backend"), "celery-k8s"),
        ("dagster:multiprocess_executor", "execution: {config: {max_concurrent: 2}}", "multiprocess"),
    ],
)
def test_the_jobs_have_the_executor_that_the_settings_name_with_the_config_of_their_file(
    name: str, content: str, called: str, tmp_path: Path
) -> None:
    chosen = executor_of(settings(name, content, tmp_path))
    assert chosen.name == called
    definitions = build_definitions(load_definitions({}), executor=chosen)
    passes = definitions.resolve_job_def(PRODUCT.changes_job)
    assert passes.executor_def is executor.IN_PROCESS, "a pass is small, and is not distributed"
    for job in (PRODUCT.sync_job, PRODUCT.dry_run_job, PRODUCT.validate_job):
        definition = definitions.resolve_job_def(job)
        assert definition.executor_def is chosen
        dg.validate_run_config(definition, {})
        with pytest.raises(dg.DagsterInvalidConfigError):
            dg.validate_run_config(definition, {"execution": {"config": {"no_such_key": 1}}})


def test_in_a_project_of_somebody_else_shards_run_on_its_executor_or_on_the_one_that_is_given() -> None:
    theirs = dg.Definitions(executor=_one_that_waits)
    cut = build_sync_definitions(load_definition(), options={"shards": 4})
    job = dg.Definitions.merge(cut, theirs).resolve_job_def(PRODUCT.sync_job)
    assert job.executor_def.name == "one_that_waits"
    create: Any = job.executor_def.executor_creation_fn
    assert isinstance(create(None), executor.InCharge), "its runs are tagged with their process"
    assert cut.resolve_job_def(PRODUCT.sync_job).executor_def.name == dg.multi_or_in_process_executor.name
    assert isinstance(job.graph.node_named(PRODUCT.load).definition, dg.GraphDefinition)
    whole = dg.Definitions.merge(build_sync_definitions(load_definition()), theirs).resolve_job_def(PRODUCT.sync_job)
    assert whole.executor_def is executor.IN_PROCESS
    assert isinstance(whole.graph.node_named(PRODUCT.load).definition, dg.OpDefinition)
    given = build_sync_definitions(load_definition(), executor=dg.in_process_executor).resolve_job_def(PRODUCT.sync_job)
    assert given.executor_def.name == "in_process"


@pytest.mark.parametrize(("name", "title"), [("celery", "## Celery"), ("k8s", "## Kubernetes")])
def test_the_configuration_that_the_guide_shows_is_one_for_that_executor(name: str, title: str, tmp_path: Path) -> None:
    section = (ROOT / "docs" / "scale.md").read_text().partition(title)[2]
    content = section.partition("```yaml\n")[2].partition("```")[0]
    chosen = executor_of(settings(name, content, tmp_path))
    job = build_definitions(load_definitions({}), executor=chosen).resolve_job_def(PRODUCT.sync_job)
    dg.validate_run_config(job, yaml.safe_load(content))
    if name == "celery":
        shown = yaml.safe_load(content)["execution"]["config"]
        tested = celery_config("redis://redis.example:6379", visibility_s=7200)
        assert shown == tested, "what the workers of the tests have"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("kubernetes", "", "SYNC_EXECUTOR is 'kubernetes'. Expected: `in_process`, `multiprocess`, `celery`, `k8s`"),
        ("nowhere:executor", "", "SYNC_EXECUTOR is 'nowhere:executor': No module named 'nowhere'. Install the package"),
        ("dagster:Field", "", "SYNC_EXECUTOR is 'dagster:Field', which is not an executor."),
        ("celery", "- a list", "which has no section `execution: config:`"),
        ("celery", "execution: [", "which has no section `execution: config:`"),
    ],
)
def test_an_executor_that_cannot_be_used_is_refused_by_name(name: str, content: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        executor_of(settings(name, content, tmp_path))
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "celery.yaml")
    with pytest.raises(ConfigurationError, match=f"{EXECUTOR_CONFIG} is '{missing}': No such file"):
        executor_of(ExecutorSettings.from_environment({EXECUTOR: "celery", EXECUTOR_CONFIG: missing}))


def signs_of_life(instance: dg.DagsterInstance, run_id: str) -> list[dg.EventLogEntry]:
    return [entry for entry in instance.all_logs(run_id) if "is alive" in entry.message]


def failing_once(call: Callable[..., Any]) -> Callable[..., Any]:
    """The storage of Dagster is down for a moment."""
    failures = iter([OperationalError("SELECT", None, Exception("the server is starting up"))])

    def run(*arguments: Any) -> Any:
        for failure in failures:
            raise failure
        return call(*arguments)

    return run


@dg.executor(name="one_that_waits", config_schema={})
def _one_that_waits(_: dg.InitExecutorContext) -> dg.Executor:
    class Waits(dg.Executor):
        @property
        def retries(self) -> Any:
            return dg.in_process_executor

        def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:  # noqa: ARG002
            wait_until(lambda: len(signs_of_life(plan_context.instance, plan_context.run_id)) >= 3)
            yield from ()

    return Waits()


@dg.op
def _nothing() -> None: ...


@dg.job(executor_def=in_charge(_one_that_waits))
def _waiting() -> None:
    _nothing()


def test_a_run_whose_steps_wait_says_that_it_is_alive_and_where(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "QUIET_S", 0.2)
    monkeypatch.setattr(executor, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(executor, "last_event_at", failing_once(last_event_at))
    result = dg.execute_job(dg.reconstructable(_waiting), instance, raise_on_error=False)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert process_tags().items() <= run.tags.items()
    said = signs_of_life(instance, result.run_id)
    assert said[0].message == "The run is alive and waits for its steps."
    assert all(later.timestamp - earlier.timestamp > 0.19 for earlier, later in pairwise(said))


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.FAILURE])
def test_a_step_in_a_process_of_its_own_is_interrupted_when_its_run_ends(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, status: dg.DagsterRunStatus
) -> None:
    monkeypatch.setattr(dead_runs, "_LOOK_EVERY_S", 0.2)
    run_id = record_run(instance, tags=process_tags() | {names.PROCESS_TAG: "1@1"})
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), ends_with_its_run(instance, run_id):
        _end(instance, run_id, status, monkeypatch)
    assert 0.6 < time.monotonic() - began < 10


def _end(
    instance: dg.DagsterInstance, run_id: str, status: dg.DagsterRunStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    monkeypatch.setattr(instance, "get_run_by_id", failing_once(instance.get_run_by_id))
    time.sleep(0.5)  # while the run goes on nothing happens
    if status is dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceling(run)
    else:
        instance.report_run_failed(run)
    time.sleep(20)


def test_a_step_that_a_queue_gives_to_a_worker_after_the_end_of_its_run_does_nothing(
    instance: dg.DagsterInstance,
) -> None:
    run_id = record_run(instance, dg.DagsterRunStatus.FAILURE)
    with pytest.raises(SyncCancelled, match="This run has ended"), ends_with_its_run(instance, run_id):
        pytest.fail("it began")


def test_the_steps_in_the_process_of_the_run_are_left_to_dagster(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_runs, "_LOOK_EVERY_S", 0.05)
    run_id = record_run(instance, dg.DagsterRunStatus.CANCELING, tags=process_tags())
    with ends_with_its_run(instance, run_id):
        time.sleep(0.3)
