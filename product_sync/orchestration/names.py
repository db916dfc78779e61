"""The names by which Dagster knows our assets, jobs and checks: users type them and histories refer to them."""

from typing import Final

import dagster as dg

MONGODB = "mongodb_products"
POSTGRES = "postgres_product"
SOURCE_SNAPSHOT = "mongo_product_snapshot"
TARGET_SNAPSHOT = "postgres_cart_snapshot"
#: The step that reads both sides.
SNAPSHOTS = "product_snapshots"
DIFF = "product_diff"
LOAD = "product_load"
QUARANTINE = "quarantined_products"
PROOF = "proven_copy"
DRIFT_REPORT = "drift_report"
HEALTH = "health"

SYNC_JOB = "product_sync"
DRY_RUN_JOB = "product_sync_dry_run"
VALIDATE_JOB = "validate_sync"

JOB_NAMES: Final = frozenset({SYNC_JOB, DRY_RUN_JOB, VALIDATE_JOB})
OUR_ASSETS: Final = frozenset(map(dg.AssetKey, (SOURCE_SNAPSHOT, TARGET_SNAPSHOT, DIFF, LOAD, QUARANTINE)))

SOURCE_LOOKS_COMPLETE = "source_looks_complete"
CHANGE_IS_PLAUSIBLE = "change_is_plausible"
TARGET_MATCHES_SOURCE = "target_matches_source"
EVERY_BATCH_LOADED = "every_batch_loaded"
QUARANTINE_WITHIN_BUDGET = "quarantine_within_budget"
NO_EXTRA_PRODUCTS = "no_extra_products"
MONGODB_CONNECTION = "mongodb_connection"
POSTGRES_CONNECTION = "postgres_connection"
BOTH_CONNECTIONS = "both_connections"

HOST_TAG: Final = "product_sync/host"
PROCESS_TAG: Final = "product_sync/process"
#: The name of the run's sync; without it the run is of the sync `product`.
SYNC_TAG: Final = "product_sync/sync"
#: On dry runs, with the value `true`: how the UI's list of runs tells them from syncs.
DRY_RUN_TAG: Final = "product_sync/dry_run"

#: Of a scheduled run that met another sync's lock: it has done nothing, and says why.
SKIPPED_TAG: Final = "product_sync/skipped"

#: Metadata of a load: which two sides it was about (`RowSchema.state_key`).
STATE_KEY = "state_key"
