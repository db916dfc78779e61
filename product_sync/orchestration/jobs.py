"""The jobs of a sync: sync, dry run, changes, validation."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from product_sync.errors import ConfigurationError
from product_sync.orchestration.executor import in_process_by_default
from product_sync.orchestration.names import (
    DRY_RUN_TAG,
    MAPPING_FITS_SOURCE,
    NO_EXTRA_PRODUCTS,
    QUARANTINE_WITHIN_BUDGET,
    SCOPE_TAG,
    SOURCE_LOOKS_COMPLETE,
    SYNC_TAG,
    TARGET_MATCHES_SOURCE,
    SyncNames,
)
from product_sync.orchestration.resources import RUN_CONFIG
from product_sync.schema.definition import SyncDefinition
from product_sync.settings import RunOptions

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

#: Metadata of a job: the definition of its sync.
DEFINITION = "sync"
_SECTIONS = ("ops", "resources", "execution", "loggers")
#: The spelling in GraphQL, where all other names are in camel case (docs/decisions/0097).
_DRY_RUN_IN_GRAPHQL = "dryRun"


def _to_run_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Move the options at the top of the run config to the resource ``sync``. Raises `DagsterInvalidConfigError` for a
    value out of bounds: Dagster then refuses the launch."""
    sections = {name: dict(config[name]) for name in _SECTIONS if name in config}
    options = {name: value for name, value in config.items() if name not in (*_SECTIONS, _DRY_RUN_IN_GRAPHQL)}
    resources = sections.setdefault("resources", {})
    of_sync = resources.get("sync", {}).get("config", {})
    if config.get(_DRY_RUN_IN_GRAPHQL) or of_sync.get("dry_run"):
        options["dry_run"] = True  # dry is on if any switch says so
    options = {**of_sync, **options}
    try:
        RunOptions.resolve({}, options)
    except ConfigurationError as error:
        raise dg.DagsterInvalidConfigError(str(error), [], config) from None  # type: ignore[no-untyped-call]
    resources["sync"] = {"config": options}
    # Without an entry Dagster would use its own console logger.
    sections.setdefault("loggers", {"console": {}})
    return sections


def _to_dry_run_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same, and always dry: a default in the job's config would be lost as soon as a user gives any config."""
    return _to_run_config({**config, "dry_run": True})


def _to_changes_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same, and always for the changes."""
    return _to_run_config({**config, "changes": True})


_OF_SYNC = {"sync": dg.Field({"config": dg.Field(RUN_CONFIG, is_required=False)}, is_required=False)}
_SCHEMA = {
    **RUN_CONFIG,
    _DRY_RUN_IN_GRAPHQL: dg.Field(bool, is_required=False, description="The same as dry_run."),
    **{name: dg.Field(dict, is_required=False) for name in _SECTIONS},
    "resources": dg.Field(dg.Permissive(_OF_SYNC), is_required=False),  # type: ignore[no-untyped-call]
}


def sync_jobs(definition: SyncDefinition) -> "list[UnresolvedAssetJobDefinition]":
    """The sync, its dry run and the validation. Each carries the definition, which the shared sensors read."""
    names = SyncNames.of(definition.name)
    steps = dg.AssetSelection.assets(*names.assets)
    tags = {SYNC_TAG: definition.name}
    metadata = {DEFINITION: dg.MetadataValue.json(definition.model_dump(mode="json", by_alias=True))}
    return [
        dg.define_asset_job(
            names.sync_job,
            selection=steps,
            config=dg.ConfigMapping(config_fn=_to_run_config, config_schema=_SCHEMA),
            tags=tags,
            metadata=metadata,
            executor_def=in_process_by_default,
            description="Read both sides, find the differences, write them in batches, verify the result.",
        ),
        dg.define_asset_job(
            names.dry_run_job,
            selection=steps,
            config=dg.ConfigMapping(config_fn=_to_dry_run_config, config_schema=_SCHEMA),
            tags={**tags, DRY_RUN_TAG: "true"},
            metadata=metadata,
            executor_def=in_process_by_default,
            description=f"The same as {names.sync_job}, but nothing is written.",
        ),
        dg.define_asset_job(
            names.changes_job,
            selection=steps,
            config=dg.ConfigMapping(config_fn=_to_changes_config, config_schema=_SCHEMA),
            tags={**tags, SCOPE_TAG: "changes"},
            metadata=metadata,
            executor_def=in_process_by_default,
            description=f"The same as {names.sync_job}, of the products that the source has changed since then.",
        ),
        dg.define_asset_job(
            names.validate_job,
            selection=dg.AssetSelection.checks(
                dg.AssetCheckKey(dg.AssetKey(names.source_snapshot), SOURCE_LOOKS_COMPLETE),
                dg.AssetCheckKey(dg.AssetKey(names.source_snapshot), MAPPING_FITS_SOURCE),
                dg.AssetCheckKey(dg.AssetKey(names.load), TARGET_MATCHES_SOURCE),
                dg.AssetCheckKey(dg.AssetKey(names.load), NO_EXTRA_PRODUCTS),
                dg.AssetCheckKey(dg.AssetKey(names.quarantine), QUARANTINE_WITHIN_BUDGET),
            ),
            config=dg.ConfigMapping(config_fn=_to_run_config, config_schema=_SCHEMA),
            tags=tags,
            metadata=metadata,
            executor_def=in_process_by_default,
            description="Read both sides again and compare them. Nothing is written.",
        ),
    ]


def definitions_of(repository: dg.RepositoryDefinition | None) -> list[SyncDefinition]:
    """The syncs of a code location."""
    jobs = repository.get_all_jobs() if repository else []
    found = [
        SyncDefinition.model_validate(job.metadata[DEFINITION].value) for job in jobs if DEFINITION in job.metadata
    ]
    return list({definition.name: definition for definition in found}.values())
