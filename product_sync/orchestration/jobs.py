"""The jobs: what `dagster job execute -j` takes, and what the schedule runs."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from product_sync.orchestration import names
from product_sync.settings import SETTING_NAMES

_SECTIONS = ("ops", "resources", "execution", "loggers")
#: What a caller of GraphQL writes, where every other name is in camel case. A dry run that was asked for must be one.
_DRY_RUN_IN_GRAPHQL = "dryRun"


def _to_run_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Let ``dry_run: true`` stand at the top of the file beside Dagster's own sections, as the switches of ``sync``."""
    sections = {name: dict(config[name]) for name in _SECTIONS if name in config}
    switches = {name: value for name, value in config.items() if name not in (*_SECTIONS, _DRY_RUN_IN_GRAPHQL)}
    if config.get(_DRY_RUN_IN_GRAPHQL):
        switches["dry_run"] = True
    resources = sections.setdefault("resources", {})
    sync = dict(resources.get("sync", {}))
    settings = {**sync.get("config", {}), **switches}
    if sync.get("config", {}).get("dry_run") and not settings["dry_run"]:
        settings["dry_run"] = True  # dry is on if any switch says so
    resources["sync"] = {**sync, "config": settings}
    # Without an entry Dagster would take a console logger of its own, and not ours.
    sections.setdefault("loggers", {"console": {}})
    return sections


def _to_dry_run_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same, and dry whatever it says: a default in the job's config would be gone with any config of a user."""
    return _to_run_config({**config, "dry_run": True})


_SCHEMA = {
    **{
        name: dg.Field(dg.Any, is_required=False, description=f"As resources.sync.config.{name}.")
        for name in sorted(SETTING_NAMES)
    },
    _DRY_RUN_IN_GRAPHQL: dg.Field(bool, is_required=False, description="The same as dry_run."),
    **{name: dg.Field(dict, is_required=False) for name in _SECTIONS},
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
