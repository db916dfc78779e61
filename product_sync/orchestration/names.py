"""The names of the assets, jobs and checks of a sync in Dagster. Users type them, and run histories refer to them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import dagster as dg

from product_sync.schema.definition import DEFAULT_NAME


@dataclass(frozen=True, slots=True)
class SyncNames:
    """The names of one sync, made by `of`."""

    sync: str
    group: str
    source: str
    target: str
    source_snapshot: str
    target_snapshot: str
    snapshots: str
    diff: str
    load: str
    quarantine: str
    proof: str
    drift_report: str
    health: str
    changes: str
    connections: str
    io_manager: str
    sync_job: str
    dry_run_job: str
    changes_job: str
    validate_job: str
    schedule: str
    health_sensor: str
    watch_sensor: str

    @classmethod
    def of(cls, sync: str) -> "SyncNames":
        """The sync `product` keeps its older names, which follow no rule (docs/decisions/0100)."""
        made = {
            "group": f"{sync}_sync",
            "source": f"mongodb_{sync}_source",
            "target": f"postgres_{sync}_target",
            "source_snapshot": f"mongo_{sync}_snapshot",
            "target_snapshot": f"postgres_{sync}_snapshot",
            # The step that reads both sides.
            "snapshots": f"{sync}_snapshots",
            "diff": f"{sync}_diff",
            "load": f"{sync}_load",
            "quarantine": f"{sync}_quarantine",
            "proof": f"{sync}_proven_copy",
            "drift_report": f"{sync}_drift_report",
            "health": f"{sync}_health",
            "changes": f"{sync}_changes",
            "connections": f"{sync}_connections",
            "io_manager": f"{sync}_sync_io_manager",
            "sync_job": f"{sync}_sync",
            "dry_run_job": f"{sync}_sync_dry_run",
            "changes_job": f"{sync}_sync_changes",
            "validate_job": f"validate_{sync}_sync",
            "schedule": f"{sync}_sync_schedule",
            "health_sensor": f"{sync}_sync_health",
            "watch_sensor": f"{sync}_sync_watch",
        }
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


SOURCE_LOOKS_COMPLETE = "source_looks_complete"
MAPPING_FITS_SOURCE = "mapping_fits_source"
CHANGE_IS_PLAUSIBLE = "change_is_plausible"
TARGET_MATCHES_SOURCE = "target_matches_source"
EVERY_BATCH_LOADED = "every_batch_loaded"
QUARANTINE_WITHIN_BUDGET = "quarantine_within_budget"
NO_EXTRA_PRODUCTS = "no_extra_products"
MONGODB_CONNECTION = "mongodb_connection"
POSTGRES_CONNECTION = "postgres_connection"
BOTH_CONNECTIONS = "both_connections"
FULL_PROOF_IS_RECENT = "full_proof_is_recent"

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
