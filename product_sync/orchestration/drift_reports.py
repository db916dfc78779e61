"""Writes the drift report of a run and links it from the run, as the newest state of the asset `drift_report`.

The step that first knows the outcome writes the report: the load, a dry run, or the check that refused the load
(docs/decisions/0042). The checks after a load put their conclusion into its report. A report that cannot be
written is a warning in the log and changes nothing else.
"""

import os
from collections.abc import Sequence

import dagster as dg
import pyarrow as pa

from product_sync.errors import ConfigurationError, LocalStorageError, StateStoreError
from product_sync.load.result import LoadResult
from product_sync.orchestration import run_log
from product_sync.orchestration.metadata import Metadata, drift_metadata
from product_sync.orchestration.names import SyncNames
from product_sync.pipeline.sync_run import SyncRun
from product_sync.report import drift_page, drift_report
from product_sync.settings import ReportSettings
from product_sync.state.mirror import mirror_of
from product_sync.state.storage_errors import local_storage
from product_sync.verify import accounting
from product_sync.verify.checks import CheckResult

LOADED = "The differences were written as far as the target allowed; the table below shows what was done."
DRY = "This was a dry run: nothing was written."
REFUSED = "Nothing was written: too many rows would change."
NOT_LOADED = "Nothing was written: the load could not begin."


def record_drift_report(
    context: dg.OpExecutionContext, sync_run: SyncRun, outcome: str, result: LoadResult | None = None
) -> None:
    """``result`` is what the load did, ``None`` where there was none. A partial run has no report: its counts beside
    those of whole runs would look as if the drift had vanished."""
    if sync_run.is_partial:
        return
    try:
        with local_storage(sync_run.folder.root):
            metadata = _write(sync_run, outcome, result, ReportSettings.from_environment(os.environ))
    except (ConfigurationError, LocalStorageError, StateStoreError, pa.ArrowException) as error:
        context.log.warning("The drift report could not be written: %s", error)
        return
    context.log.info(run_log.report(str(metadata["report"].value)))
    context.log_event(dg.AssetMaterialization(SyncNames.of(sync_run.name).drift_report, metadata=metadata))


def conclude_drift_report(
    context: dg.OpExecutionContext, sync_run: SyncRun, check_results: Sequence[CheckResult]
) -> None:
    """Put the results of the checks after the load into the report of this run, if it has one."""
    try:
        with local_storage(sync_run.folder.root):
            path = sync_run.folder.report(sync_run.files.run_id)
            if path.exists():
                page = drift_page.conclude(path.read_text(encoding="utf-8"), accounting.conclusion(check_results))
                sync_run.folder.write_report(sync_run.files.run_id, page)
    except (LocalStorageError, StateStoreError) as error:
        context.log.warning("The conclusion could not be written into the drift report: %s", error)


def _write(sync_run: SyncRun, outcome: str, result: LoadResult | None, settings: ReportSettings) -> Metadata:
    started = sync_run.timing.monotonic()
    report = drift_report.gather(sync_run, outcome, result)
    run_url = f"{settings.ui_url}/runs/{report.run_id}" if settings.ui_url else ""
    path = sync_run.folder.write_report(report.run_id, drift_page.render(report, run_url))
    link = (
        dg.MetadataValue.url(f"{settings.reports_url}/{path.name}")
        if settings.reports_url
        else dg.MetadataValue.path(mirror.url_of(path) if (mirror := mirror_of(path)) else path)
    )
    return drift_metadata(report, link, sync_run.timing.monotonic() - started)
