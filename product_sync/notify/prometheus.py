"""Hands the figures to Prometheus: as a file for the node exporter, or to a push gateway.

A run of a few seconds is over before anybody could scrape it. docs/metrics.md lists every name.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit, urlunsplit

from product_sync.notify.run_metrics import WRITTEN, JobMetrics, RunMetrics
from product_sync.settings import METRICS_FILE, METRICS_PUSH_URL

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

PUSH_TIMEOUT_S = 5.0
#: Prometheus gives every series a label ``job`` of its own.
_JOB = "dagster_job"

#: Gauge, what it says, and its value of a job's last run; ``None`` is not exported.
_VALUES: tuple[tuple[str, str, Callable[[JobMetrics], float | None]], ...] = (
    ("last_run_timestamp_seconds", "When the last run ended.", lambda job: job.ended_at),
    ("last_run_success", "Whether the last run succeeded.", lambda job: job.outcome == "success"),
    ("last_run_duration_seconds", "How long the last run took.", lambda job: job.duration_s),
    ("last_success_timestamp_seconds", "When a run last succeeded.", lambda job: job.last_success_at),
    ("quarantined", "Products in quarantine after the last run.", lambda job: job.counts.get("quarantined")),
)
#: Gauge, what it counts, its second label: the counts by the value of that label.
_COUNTED = (
    ("products", "Products on each side, as the last run read them.", "side",
     {"source": "source_count", "target": "target_count"}),
    ("differences", "Differences that the last run found, without the quarantined products.", "kind",
     {"missing": "missing", "changed": "changed", "extra": "extra", "in_flight": "in_flight"}),
    ("last_run_rows", "Rows by what the last run did with them.", "op",
     {name: name for name in (*WRITTEN, "kept_referenced", "excluded")}),
    ("last_run_batches", "Batches of the last run; all includes the failed.", "outcome",
     {"all": "batches", "failed": "failed_batches", "not_attempted": "not_attempted_batches"}),
)  # fmt: skip


def write_file(figures: RunMetrics, path: Path) -> str:
    """Replace the file at once, so that no half of it is ever read. Returns what went wrong, or an empty string."""
    from prometheus_client import generate_latest

    temporary = _beside(path)
    try:
        temporary.write_bytes(generate_latest(registry(figures)))
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        return f"{METRICS_FILE} could not be written: {error.strerror}."
    return ""


def why_not_writable(path: Path) -> str:
    """Try a file beside ``path``, as `write_file` needs one. Returns what is wrong with the path, or an empty string.

    A file system that is full or broken at the moment is not the path's fault."""
    try:
        if path.is_dir():
            return os.strerror(errno.EISDIR)
        temporary = _beside(path)
        temporary.touch()
        temporary.unlink(missing_ok=True)
    except OSError as error:
        return "" if error.errno in _TEMPORARY else error.strerror or type(error).__name__
    return ""


#: The file system is full or broken now.
_TEMPORARY = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)


def _beside(path: Path) -> Path:
    """A name that no collector reads: theirs end with ``.prom``."""
    return path.with_name(f".{path.name}.{os.getpid()}")


def push(figures: RunMetrics, url: str) -> str:
    """Replace what the gateway holds of us. Returns what went wrong, or an empty string; the URL is not in it.

    A user and a password in the URL are sent as the gateway's basic authentication, and are no part of the address.
    """
    from prometheus_client import push_to_gateway
    from prometheus_client.exposition import basic_auth_handler, default_handler

    try:
        address, user, password = _without_login(url)
        handler = partial(basic_auth_handler, username=user, password=password) if user else default_handler
        push_to_gateway(
            address, job="product_sync", registry=registry(figures), timeout=PUSH_TIMEOUT_S, handler=handler
        )
    except HTTPError as error:
        error.close()
        return f"{METRICS_PUSH_URL} answered {error.code}."
    except (OSError, ValueError) as error:
        return f"{METRICS_PUSH_URL} cannot be reached ({type(error).__name__})."
    return ""


def _without_login(url: str) -> tuple[str, str, str]:
    """The address, the user and the password, decoded. Raises `ValueError` for what is no URL."""
    parts = urlsplit(url)
    address = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return address, unquote(parts.username or ""), unquote(parts.password or "")


def registry(figures: RunMetrics) -> CollectorRegistry:
    """The figures as metrics, and nothing else."""
    from prometheus_client import CollectorRegistry

    class Collector:
        def collect(self) -> Iterator[Metric]:
            return _metrics(figures)

    made = CollectorRegistry()
    made.register(Collector())
    return made


def _metrics(figures: RunMetrics) -> Iterator[Metric]:
    yield from _totals(figures)
    yield from _of_last_runs(figures)


def _totals(figures: RunMetrics) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    runs = CounterMetricFamily("product_sync_runs", "Runs that ended, by outcome.", labels=[_JOB, "outcome"])
    for name, job in figures.jobs.items():
        for outcome, number in job.runs.items():
            runs.add_metric([name, outcome], number)
    yield runs
    rows = CounterMetricFamily("product_sync_rows", "Rows of all runs, by what was done with them.", labels=["op"])
    for op, written in figures.rows.items():
        rows.add_metric([op], written)
    yield rows


def _of_last_runs(figures: RunMetrics) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    for metric, text, value_of in _VALUES:
        gauge = GaugeMetricFamily(f"product_sync_{metric}", text, labels=[_JOB])
        for name, job in figures.jobs.items():
            if (value := value_of(job)) is not None:
                gauge.add_metric([name], float(value))
        yield gauge
    for metric, text, label, counts in _COUNTED:
        gauge = GaugeMetricFamily(f"product_sync_{metric}", text, labels=[_JOB, label])
        for name, job in figures.jobs.items():
            for shown, count in counts.items():
                if count in job.counts:
                    gauge.add_metric([name, shown], job.counts[count])
        yield gauge
    checks = GaugeMetricFamily("product_sync_check_passed", "The last answer of each check.", labels=["check"])
    for check, passed in figures.checks.items():
        checks.add_metric([check], float(passed))
    yield checks
