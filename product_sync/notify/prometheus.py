"""Exports the run metrics to Prometheus: as a file for the node exporter, or to a push gateway.

A run takes a few seconds, so Prometheus cannot scrape it. docs/metrics.md lists every metric; another one is a line in
`_OF_A_JOB` or `_OF_A_SYNC`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit

from product_sync.notify.run_metrics import WRITTEN, JobMetrics, RunMetrics, SyncMetrics
from product_sync.settings import METRICS_FILE, METRICS_PUSH_URL

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

PUSH_TIMEOUT_S = 5.0
_COUNTERS = frozenset({"runs", "rows"})
#: Values by the value of the metric's own label. ``None`` is not exported.
_Values = Mapping[str, float | None]


def _one(value: float | None) -> _Values:
    """The value of a metric that has no label of its own."""
    return {"": value}


def _counts(**names: str) -> Callable[[JobMetrics], _Values]:
    return lambda job: {shown: job.counts.get(count) for shown, count in names.items()}


#: Metric, what it says, its own label, and its values. Prometheus itself sets a label ``job``.
_OF_A_JOB: tuple[tuple[str, str, str, Callable[[JobMetrics], _Values]], ...] = (
    ("runs", "Runs that ended, by outcome.", "outcome", lambda job: job.runs),
    ("last_run_timestamp_seconds", "When the last run ended.", "", lambda job: _one(job.ended_at)),
    ("last_run_success", "Whether the last run succeeded.", "", lambda job: _one(job.outcome == "success")),
    ("last_run_duration_seconds", "How long the last run took.", "", lambda job: _one(job.duration_s)),
    ("last_success_timestamp_seconds", "When a run last succeeded.", "", lambda job: _one(job.last_success_at)),
    ("quarantined", "Products in quarantine after the last run.", "", lambda job: _one(job.counts.get("quarantined"))),
    ("products", "Products on each side, as the last run read them.", "side",
     _counts(source="source_count", target="target_count")),
    ("differences", "Differences that the last run found, without the quarantined products.", "kind",
     _counts(missing="missing", changed="changed", extra="extra", in_flight="in_flight")),
    ("last_run_rows", "Rows of the last run, by what it did with them.", "op",
     _counts(**{name: name for name in (*WRITTEN, "kept_referenced", "excluded")})),
    ("last_run_batches", "Batches of the last run; all includes the failed.", "outcome",
     _counts(all="batches", failed="failed_batches", not_attempted="not_attempted_batches"))
)  # fmt: skip
_OF_A_SYNC: tuple[tuple[str, str, str, Callable[[SyncMetrics], _Values]], ...] = (
    ("rows", "Rows of all runs, by what was done with them.", "op", lambda sync: sync.rows),
    ("check_passed", "The last result of each check.", "check", lambda sync: sync.checks),
    ("changes_position_timestamp_seconds", "Up to when the source's changes are compared.", "",
     lambda sync: _one(sync.followed.get("position_at"))),
    ("changes_unsettled", "Products that differ after the last look at the changes.", "",
     lambda sync: _one(sync.followed.get("unsettled"))),
    ("full_proof_timestamp_seconds", "When the last full sync that passed began to read.", "",
     lambda sync: _one(sync.followed.get("full_proof_at"))),
)  # fmt: skip


def write_file(metrics: RunMetrics, path: Path) -> str:
    """Replace the file atomically. Returns what went wrong, or an empty string."""
    from prometheus_client import generate_latest

    temporary = _beside(path)
    try:
        temporary.write_bytes(generate_latest(registry(metrics)))
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        return f"{METRICS_FILE} could not be written: {error.strerror}."
    return ""


def why_not_writable(path: Path) -> str:
    """Create and remove a file beside ``path``, as `write_file` does. Returns what is wrong with the path, or an empty
    string."""
    try:
        if path.is_dir():
            return os.strerror(errno.EISDIR)
        temporary = _beside(path)
        temporary.touch()
        temporary.unlink(missing_ok=True)
    except OSError as error:
        return "" if error.errno in _TEMPORARY else error.strerror or type(error).__name__
    return ""


#: The file system is full or broken at the moment, so the setting is not at fault.
_TEMPORARY = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)


def _beside(path: Path) -> Path:
    """A name that no collector reads: they read names that end with ``.prom``."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def push(metrics: RunMetrics, url: str) -> str:
    """Replace our metrics in the gateway. Returns what went wrong, or an empty string, without the URL. A user and a
    password in the URL are sent as basic authentication."""
    from prometheus_client import push_to_gateway
    from prometheus_client.exposition import basic_auth_handler, default_handler

    try:
        parts = urlsplit(url)
        address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        handler = partial(basic_auth_handler, username=user, password=password) if user else default_handler
        push_to_gateway(
            address, job="product_sync", registry=registry(metrics), timeout=PUSH_TIMEOUT_S, handler=handler
        )
    except HTTPError as error:
        error.close()
        return f"{METRICS_PUSH_URL} answered {error.code}."
    except (OSError, ValueError) as error:
        return f"{METRICS_PUSH_URL} cannot be reached ({type(error).__name__})."
    return ""


def registry(metrics: RunMetrics) -> CollectorRegistry:
    """A registry that holds the run metrics and nothing else."""
    from prometheus_client import CollectorRegistry

    class Collector:
        def collect(self) -> Iterator[Metric]:
            jobs = [((sync, name), job) for sync, item in metrics.syncs.items() for name, job in item.jobs.items()]
            for name, text, label, values in _OF_A_JOB:
                samples = [(labels, values(job)) for labels, job in jobs]
                yield _metric(name, text, ("sync", "dagster_job", label), samples)
            for name, text, label, of_sync in _OF_A_SYNC:
                yield _metric(name, text, ("sync", label), [((sync,), of_sync(m)) for sync, m in metrics.syncs.items()])

    made = CollectorRegistry()
    made.register(Collector())
    return made


def _metric(
    name: str, text: str, labels: tuple[str, ...], samples: Sequence[tuple[tuple[str, ...], _Values]]
) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    kind = CounterMetricFamily if name in _COUNTERS else GaugeMetricFamily
    family = kind(f"product_sync_{name}", text, labels=[label for label in labels if label])
    for fixed, values in samples:
        for own, value in values.items():
            if value is not None:
                family.add_metric([*fixed, *([own] if labels[-1] else [])], float(value))
    return family
