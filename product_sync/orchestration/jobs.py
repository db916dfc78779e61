"""The jobs of a sync: sync, dry run, changes, validation."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from product_sync.errors import ConfigurationError
from product_sync.orchestration.executor import IN_PROCESS, in_charge
from product_sync.orchestration.names import (
    DRY_RUN_TAG,
    MAPPING_FITS_SOURCE,
    NO_EXTRA_PRODUCTS,
    QUARANTINE_WITHIN_BUDGET,
    SCOPE_TAG,
    SOURCE_LOOKS_COMPLETE,
    SYNC_TAG,
    TABLE_TAG,
    TARGET_MATCHES_SOURCE,
    SyncNames,
    check_specs,
)
from product_sync.orchestration.resources import RUN_CONFIG
from product_sync.schema.definition import SyncDefinition
from product_sync.settings import RunOptions

#: Metadata of a job: the definition of its sync.
DEFINITION = "sync"
#: The checks that a validation makes.
_VALIDATES = (
    SOURCE_LOOKS_COMPLETE, MAPPING_FITS_SOURCE, TARGET_MATCHES_SOURCE, NO_EXTRA_PRODUCTS, QUARANTINE_WITHIN_BUDGET
)  # fmt: skip
_SECTIONS = ("ops", "resources", "execution", "loggers")
#: The spelling in GraphQL, where all other names are in camel case (docs/decisions/0097).
_DRY_RUN_IN_GRAPHQL = "dryRun"


def _to_run_config(resource: str, always: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Move the options at the top of the run config to the resource, and add those that the job ``always`` has: a
    default in the job's config would be lost as soon as a user gives any config. Raises `DagsterInvalidConfigError` for
    a value out of bounds: Dagster then refuses the launch."""
    sections = {name: dict(config[name]) for name in _SECTIONS if name in config}
    options = {name: value for name, value in config.items() if name not in (*_SECTIONS, _DRY_RUN_IN_GRAPHQL)}
    resources = sections.setdefault("resources", {})
    of_sync = resources.get(resource, {}).get("config", {})
    if config.get(_DRY_RUN_IN_GRAPHQL) or of_sync.get("dry_run"):
        options["dry_run"] = True  # dry is on if any switch says so
    options = {**of_sync, **options, **always}
    try:
        RunOptions.resolve({}, options)
    except ConfigurationError as error:
        raise dg.DagsterInvalidConfigError(str(error), [], config) from None  # type: ignore[no-untyped-call]
    resources[resource] = {"config": options}
    # Without an entry Dagster would use its own console logger.
    sections.setdefault("loggers", {"console": {}})
    return sections


class _OnTheirExecutor(UnresolvedAssetJobDefinition):
    """A job on the executor of its project, which is known only when Dagster resolves the job."""

    def resolve(
        self,
        asset_graph: Any,
        default_executor_def: dg.ExecutorDefinition | None = None,
        resource_defs: Mapping[str, dg.ResourceDefinition] | None = None,
    ) -> dg.JobDefinition:
        theirs = in_charge(default_executor_def or dg.multi_or_in_process_executor)
        return super().resolve(asset_graph, theirs, resource_defs)


def sync_jobs(
    definition: SyncDefinition, resource: str, executor: dg.ExecutorDefinition | None
) -> list[UnresolvedAssetJobDefinition]:
    """The sync, its dry run, its pass over the changes, the validation. Each carries the definition, which the shared
    sensors read. ``resource`` is the key of the resource that has the options. Without ``executor`` the project's own
    one is used."""
    names = SyncNames.of(definition.name)
    of_resource = {resource: dg.Field({"config": dg.Field(RUN_CONFIG, is_required=False)}, is_required=False)}
    schema = {
        **RUN_CONFIG,
        _DRY_RUN_IN_GRAPHQL: dg.Field(bool, is_required=False, description="The same as dry_run."),
        **{name: dg.Field(dict, is_required=False) for name in _SECTIONS},
        "resources": dg.Field(dg.Permissive(of_resource), is_required=False),  # type: ignore[no-untyped-call]
    }

    def job(
        name: str,
        selection: dg.AssetSelection,
        description: str,
        tags: Mapping[str, str],
        executor: dg.ExecutorDefinition | None = executor,
        **always: object,
    ) -> UnresolvedAssetJobDefinition:
        return (dg.define_asset_job if executor else _OnTheirExecutor)(
            name,
            selection=selection,
            config=dg.ConfigMapping(config_fn=partial(_to_run_config, resource, always), config_schema=schema),
            tags={SYNC_TAG: definition.name, TABLE_TAG: definition.target.qualified_name, **tags},
            metadata={DEFINITION: dg.MetadataValue.json(definition.model_dump(mode="json", by_alias=True))},
            executor_def=executor,
            description=description,
        )

    steps = dg.AssetSelection.assets(*names.assets)
    checks = dg.AssetSelection.checks(*(spec.key for spec in check_specs(names, *_VALIDATES)))
    does, same = "Read both sides, find the differences, write them in batches, verify the result.", names.sync_job
    dry = f"The same as {same}, but nothing is written."
    only = f"but only for the {definition.labels.items} that the source has changed since the last sync or pass"
    return [
        job(names.sync_job, steps, does, {}),
        job(names.dry_run_job, steps, dry, {DRY_RUN_TAG: "true"}, dry_run=True),
        # A pass is small and has to be quick, so its steps are not distributed.
        job(names.changes_job, steps, f"The same as {same}, {only}.", {SCOPE_TAG: "changes"}, IN_PROCESS, changes=True),
        job(names.validate_job, checks, "Read both sides again and compare them. Nothing is written.", {}),
    ]


def definitions_of(repository: dg.RepositoryDefinition | None) -> list[SyncDefinition]:
    jobs = repository.get_all_jobs() if repository else []
    found = [
        SyncDefinition.model_validate(job.metadata[DEFINITION].value) for job in jobs if DEFINITION in job.metadata
    ]
    return list({definition.name: definition for definition in found}.values())
