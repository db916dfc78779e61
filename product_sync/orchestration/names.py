"""The names of the assets, jobs and checks of a sync in Dagster, and the specs of the checks.

Users type the names, and run histories refer to them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final

import dagster as dg

from product_sync.schema.definition import DEFAULT_NAME


@dataclass(frozen=True, slots=True)
class SyncNames:
    sync: str
    group: str = "{}_sync"
    source: str = "mongodb_{}_source"
    target: str = "postgres_{}_target"
    source_snapshot: str = "mongo_{}_snapshot"
    target_snapshot: str = "postgres_{}_snapshot"
    #: The step that reads both sides.
    snapshots: str = "{}_snapshots"
    diff: str = "{}_diff"
    load: str = "{}_load"
    quarantine: str = "{}_quarantine"
    proof: str = "{}_proven_copy"
    drift_report: str = "{}_drift_report"
    health: str = "{}_health"
    changes: str = "{}_changes"
    connections: str = "{}_connections"
    io_manager: str = "{}_sync_io_manager"
    sync_job: str = "{}_sync"
    dry_run_job: str = "{}_sync_dry_run"
    changes_job: str = "{}_sync_changes"
    validate_job: str = "validate_{}_sync"
    schedule: str = "{}_sync_schedule"
    health_sensor: str = "{}_sync_health"
    watch_sensor: str = "{}_sync_watch"

    @classmethod
    def of(cls, sync: str) -> "SyncNames":
        """The sync `product` keeps its older names, which follow no rule (docs/decisions/0100)."""
        made = {item.name: str(item.default).format(sync) for item in fields(cls) if item.name != "sync"}
        return cls(sync, **(made | _OF_PRODUCT if sync == DEFAULT_NAME else made))

    @property
    def recorded(self) -> frozenset[dg.AssetKey]:
        """All assets of the sync, also those that a run only records."""
        return self.assets | {dg.AssetKey(name) for name in (self.proof, self.drift_report, self.health, self.changes)}

    @property
    def jobs(self) -> tuple[str, ...]:
        return self.sync_job, self.dry_run_job, self.changes_job, self.validate_job

    @property
    def assets(self) -> frozenset[dg.AssetKey]:
        """The assets that the steps of a run make."""
        made = (self.source_snapshot, self.target_snapshot, self.diff, self.load, self.quarantine)
        return frozenset(map(dg.AssetKey, made))


_OF_PRODUCT = {
    "source": "mongodb_products",
    "target": "postgres_product",
    "target_snapshot": "postgres_cart_snapshot",
    "quarantine": "quarantined_products",
    "proof": "proven_copy",
    "drift_report": "drift_report",
    "health": "health",
    "connections": "connections",
    "validate_job": "validate_sync",
}
PRODUCT: Final = SyncNames.of(DEFAULT_NAME)


def syncs_of(run: dg.DagsterRun, known: Iterable[SyncNames] = (PRODUCT,)) -> list[SyncNames]:
    """The syncs of a run: by its job, by the assets and checks that it was launched for, or by its tag, which a run of
    the Materialize button gets at its start."""
    selected = selected_assets(run)
    found = [names for names in known if run.job_name in names.jobs or not names.assets.isdisjoint(selected)]
    return found or [SyncNames.of(run.tags[SYNC_TAG])] if SYNC_TAG in run.tags or found else []


def selected_assets(run: dg.DagsterRun) -> set[dg.AssetKey]:
    """The assets whose steps or checks were selected for the run; none if a whole job was."""
    return {key.asset_key for key in run.asset_check_selection or ()} | set(run.asset_selection or ())


SOURCE_LOOKS_COMPLETE: Final = "source_looks_complete"
MAPPING_FITS_SOURCE: Final = "mapping_fits_source"
CHANGE_IS_PLAUSIBLE: Final = "change_is_plausible"
EVERY_BATCH_LOADED: Final = "every_batch_loaded"
TARGET_MATCHES_SOURCE: Final = "target_matches_source"
NO_EXTRA_PRODUCTS: Final = "no_extra_products"
QUARANTINE_WITHIN_BUDGET: Final = "quarantine_within_budget"
FULL_PROOF_IS_RECENT: Final = "full_proof_is_recent"
MONGODB_CONNECTION: Final = "mongodb_connection"
POSTGRES_CONNECTION: Final = "postgres_connection"
BOTH_CONNECTIONS: Final = "both_connections"

_EVERY: Final = "A sensor evaluates this check every five minutes."
#: The asset that each check is about, whether it stops the run, and what it says. A check that can fail with ERROR in
#: a run stops it: otherwise the run would stay green.
_SPECS: Final = {
    SOURCE_LOOKS_COMPLETE: (
        "source_snapshot", True, "The source is not empty, and at most 20 % smaller than in the last successful run."
    ),
    MAPPING_FITS_SOURCE: ("source_snapshot", False, "Documents have values for all mapped columns."),
    CHANGE_IS_PLAUSIBLE: ("diff", True, "A sync would overwrite at most 100 rows, or at most half of the target."),
    EVERY_BATCH_LOADED: ("load", True, "Every batch was attempted, and none failed."),
    TARGET_MATCHES_SOURCE: (
        "load", True,
        "A new reading of the target has no missing or outdated row, except for quarantined documents.",
    ),
    NO_EXTRA_PRODUCTS: ("load", False, "Every row of the target has a document in the source."),
    QUARANTINE_WITHIN_BUDGET: (
        "quarantine", True, "At most the share quarantine_budget of the source (1 % by default) is quarantined."
    ),
    MONGODB_CONNECTION: ("source", False, f"MongoDB answers and meets the requirements of a sync. {_EVERY}"),
    POSTGRES_CONNECTION: ("target", False, f"PostgreSQL answers and meets the requirements of a sync. {_EVERY}"),
    BOTH_CONNECTIONS: ("health", False, f"Both servers answer and meet the requirements of a sync. {_EVERY}"),
}  # fmt: skip
AFTER_LOAD: Final = (EVERY_BATCH_LOADED, TARGET_MATCHES_SOURCE, NO_EXTRA_PRODUCTS, QUARANTINE_WITHIN_BUDGET)
CONNECTIONS: Final = (MONGODB_CONNECTION, POSTGRES_CONNECTION, BOTH_CONNECTIONS)


def check_specs(names: SyncNames, *checks: str) -> list[dg.AssetCheckSpec]:
    found = [(check, *_SPECS[check]) for check in checks]
    return [
        dg.AssetCheckSpec(check, asset=getattr(names, asset), blocking=blocking, description=description)
        for check, asset, blocking, description in found
    ]


HOST_TAG: Final = "product_sync/host"
PROCESS_TAG: Final = "product_sync/process"
#: The name of the run's sync. A run without the tag belongs to the sync `product`.
SYNC_TAG: Final = "product_sync/sync"
#: The target table, so that Dagster's queue can limit the runs of each table.
TABLE_TAG: Final = "product_sync/table"
#: On dry runs, with the value `true`: shown in the UI's list of runs.
DRY_RUN_TAG: Final = "product_sync/dry_run"

#: On a run that looked at some products only: `ids` or `changes`.
SCOPE_TAG: Final = "product_sync/scope"

#: On a scheduled run that did nothing because another sync held the lock, with the reason.
SKIPPED_TAG: Final = "product_sync/skipped"

#: Metadata of a load: its two sides (`RowSchema.state_key`).
STATE_KEY = "state_key"
