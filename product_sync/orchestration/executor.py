"""The executor of a run: which process runs each step.

All steps share one process by default: a process of its own costs a step two seconds, and without shards the steps run
one after the other anyway. With shards any of Dagster's executors may place the steps (docs/decisions/0197).
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Final

import dagster as dg
import yaml
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.execution.step_dependency_config import StepDependencyConfig

from product_sync.errors import ConfigurationError
from product_sync.orchestration.dead_runs import SILENCE_S, process_tags
from product_sync.orchestration.run_history import last_event_at
from product_sync.settings import EXECUTOR, EXECUTOR_CONFIG, ExecutorSettings

_LOGGER = logging.getLogger(__name__)
#: A run that has recorded nothing for so many seconds records that it is alive.
QUIET_S: Final = SILENCE_S / 3
_LOOK_EVERY_S: Final = QUIET_S / 4
#: What `SYNC_EXECUTOR` may be, beside the two of Dagster itself and ``module:name``.
_NAMED: Final = {
    "celery": "dagster_celery:celery_executor",
    "k8s": "dagster_k8s:k8s_job_executor",
    "celery_k8s": "dagster_celery_k8s:celery_k8s_job_executor",
}


def executor_of(settings: ExecutorSettings) -> dg.ExecutorDefinition:
    """The executor that the settings name, with the config of their file where the run config has none. Raises
    `ConfigurationError` for an executor that cannot be imported, or a file that cannot be read."""
    config = _file(settings)
    if settings.executor in ("in_process", "multiprocess"):
        return _with_default(dg.multi_or_in_process_executor, config or {settings.executor: {}})
    return _with_default(_imported(settings.executor), config)


def in_charge(definition: dg.ExecutorDefinition) -> dg.ExecutorDefinition:
    """The same executor. The run is tagged with the process that executes it, so that a dead run differs from a slow
    one, and records that it is alive while its steps wait."""
    create = definition.executor_creation_fn
    assert create is not None  # noqa: S101 - every executor that can run has one
    return dg.ExecutorDefinition(
        definition.name,
        definition.config_schema,  # type: ignore[arg-type] # resolved already; Dagster itself passes it like this
        definition.get_requirements,
        lambda context: InCharge(create(context)),
        definition.description,
    )


class InCharge(dg.Executor):
    """`inner`, in a process that lives as long as the run, wherever the steps are."""

    def __init__(self, inner: dg.Executor) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        """What only this kind of executor has, such as the broker of Celery."""
        return getattr(self._inner, name)

    @property
    def retries(self) -> RetryMode:
        return self._inner.retries

    @property
    def step_dependency_config(self) -> StepDependencyConfig:
        return self._inner.step_dependency_config

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> "Iterator[dg.DagsterEvent]":
        instance, run = plan_context.instance, plan_context.dagster_run
        instance.add_run_tags(run.run_id, process_tags())
        ended = threading.Event()
        threading.Thread(target=_beat, args=(instance, run, ended), name="product_sync run", daemon=True).start()
        try:
            yield from self._inner.execute(plan_context, execution_plan)
        finally:
            ended.set()


def _beat(instance: dg.DagsterInstance, run: dg.DagsterRun, ended: threading.Event) -> None:
    while not ended.wait(_LOOK_EVERY_S):
        try:
            if time.time() - (last_event_at(instance, run.run_id) or 0.0) > QUIET_S:
                instance.report_engine_event("The run is alive and waits for its steps.", run)
        except Exception as error:  # noqa: BLE001 - of any storage; it may be back at the next look
            _LOGGER.warning("That the run is alive could not be recorded: %s", error)


def _with_default(definition: dg.ExecutorDefinition, config: Mapping[str, Any]) -> dg.ExecutorDefinition:
    field = dg.Field(definition.config_schema.config_type, default_value=dict(config))
    return in_charge(definition.configured(lambda given: given, config_schema=field))


def _imported(name: str) -> dg.ExecutorDefinition:
    module, _, attribute = _NAMED.get(name, name).partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        hint = f"Install the package that has {module}, or set {EXECUTOR} to `in_process` or `multiprocess`."
        raise ConfigurationError(f"{EXECUTOR} is {name!r}: {error}.", hint=hint) from None
    if not isinstance(found, dg.ExecutorDefinition):
        raise ConfigurationError(
            f"{EXECUTOR} is {name!r}, which is not an executor.", hint="Expected: the name of an ExecutorDefinition."
        )
    return found


def _file(settings: ExecutorSettings) -> dict[str, Any]:
    """The section ``execution: config:`` of the file, which is that of run config and of ``dagster-celery worker``."""
    if settings.executor_config is None:
        return {}
    path = settings.executor_config
    try:
        content = yaml.safe_load(path.read_text())
        return dict(content["execution"]["config"])
    except OSError as error:
        raise ConfigurationError(
            f"{EXECUTOR_CONFIG} is {str(path)!r}: {error.strerror}.", hint="Expected: a YAML file."
        ) from None
    except (yaml.YAMLError, ValueError, TypeError, KeyError):
        raise ConfigurationError(
            f"{EXECUTOR_CONFIG} is {str(path)!r}, which has no section `execution: config:`.",
            hint="Expected: the run config of the executor, such as `execution: {config: {broker: …}}`.",
        ) from None


#: All steps in one process, unless the run config asks for one process each.
IN_PROCESS: Final = executor_of(ExecutorSettings())
