"""The jobs: what `dagster job execute -j` takes, and what the schedule runs."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from product_sync.errors import ConfigurationError
from product_sync.orchestration import names
from product_sync.orchestration.resources import RUN_CONFIG
from product_sync.settings import RunOptions

_SECTIONS = ("ops", "resources", "execution", "loggers")
#: How callers of GraphQL write it, where every other name is in camel case: docs/decisions/0097.
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
    # Without an entry Dagster would take a console logger of its own, and not ours.
    sections.setdefault("loggers", {"console": {}})
    return sections


def _to_dry_run_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same, and dry whatever it says: a default in the job's config would be gone with any config of a user."""
    return _to_run_config({**config, "dry_run": True})


_OF_SYNC = {"sync": dg.Field({"config": dg.Field(RUN_CONFIG, is_required=False)}, is_required=False)}
_SCHEMA = {
    **RUN_CONFIG,
    _DRY_RUN_IN_GRAPHQL: dg.Field(bool, is_required=False, description="The same as dry_run."),
    **{name: dg.Field(dict, is_required=False) for name in _SECTIONS},
    "resources": dg.Field(dg.Permissive(_OF_SYNC), is_required=False),  # type: ignore[no-untyped-call]
}
_pipeline = dg.AssetSelection.assets(
    names.SOURCE_SNAPSHOT, names.TARGET_SNAPSHOT, names.DIFF, names.LOAD, names.QUARANTINE
)

product_sync = dg.define_asset_job(
    names.SYNC_JOB,
    selection=_pipeline,
    config=dg.ConfigMapping(config_fn=_to_run_config, config_schema=_SCHEMA),
    description="Read both sides, find what differs, load it in batches, prove the result.",
)
product_sync_dry_run = dg.define_asset_job(
    names.DRY_RUN_JOB,
    selection=_pipeline,
    config=dg.ConfigMapping(config_fn=_to_dry_run_config, config_schema=_SCHEMA),
    tags={names.DRY_RUN_TAG: "true"},
    description="Everything that product_sync does, except that nothing is written.",
)
validate_sync = dg.define_asset_job(
    names.VALIDATE_JOB,
    selection=dg.AssetSelection.checks(
        dg.AssetCheckKey(dg.AssetKey(names.SOURCE_SNAPSHOT), names.SOURCE_LOOKS_COMPLETE),
        dg.AssetCheckKey(dg.AssetKey(names.LOAD), names.TARGET_MATCHES_SOURCE),
        dg.AssetCheckKey(dg.AssetKey(names.LOAD), names.NO_EXTRA_PRODUCTS),
        dg.AssetCheckKey(dg.AssetKey(names.QUARANTINE), names.QUARANTINE_WITHIN_BUDGET),
    ),
    config=dg.ConfigMapping(config_fn=_to_run_config, config_schema=_SCHEMA),
    description="Read both sides afresh and compare them. Writes nothing.",
)
JOBS = [product_sync, product_sync_dry_run, validate_sync]
