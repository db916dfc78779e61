"""``make demo``: drift between a real MongoDB and a real PostgreSQL is found, shown, repaired and proven.

Every number it shows is compared with what was planted; a demo that only looks right would be a lie of ours.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from product_sync import api
from product_sync.embedded import environment
from product_sync.embedded.catalogue import Planted, fill
from product_sync.embedded.servers import running
from product_sync.errors import ProductSyncError
from product_sync.settings import state_root
from product_sync.terminal import summaries


class DemoFailed(ProductSyncError):
    """What the sync reported is not what was planted."""

    code = "demo_failed"


def run_demo(folder: Path, tell: Callable[[str], None]) -> None:
    """Start the servers on ``folder``, plant, dry-run, sync, validate, sync again; stop everything.

    Raises `DemoFailed` where a report and the planted drift disagree, and what the sync itself raises.
    """
    tell("Starting a real MongoDB (a replica set of one) and a real PostgreSQL …")
    with running(folder, tell=tell) as servers:
        environment.enter(servers)
        # The catalogue is planted anew, so what an earlier demo has learnt of it would be wrong.
        shutil.rmtree(state_root(os.environ), ignore_errors=True)
        planted = fill(servers.mongodb_url, servers.cart_url)
        tell(_what_was_planted(planted))
        _dry_run(planted, tell)
        _sync(planted, tell)
        _validate(planted, tell)
        _sync_again(tell)
    tell("\nEverything is stopped. `make dev` shows these runs in the Dagster UI.")


def _what_was_planted(planted: Planted) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(planted.quarantined.items()))
    return (
        f"The catalogue has {planted.source_count:,} products, the cart's copy {planted.target_count:,} rows."
        f" Planted: {planted.missing} missing, {planted.changed} changed, {planted.extra} extra"
        f" ({planted.extra_referenced} of them in a cart).\nDocuments that cannot be copied: {reasons}."
    )


def _dry_run(planted: Planted, tell: Callable[[str], None]) -> None:
    tell("\n1. product-sync sync --dry-run")
    with summaries.progress_bar() as on_progress:
        report = api.sync(dry_run=True, on_progress=on_progress)
    summaries.show_sync(report.raise_for_error())
    _expect("missing", report.missing, planted.missing)
    _expect("changed", report.changed, planted.changed)
    _expect("extra", report.extra, planted.extra)


def _sync(planted: Planted, tell: Callable[[str], None]) -> None:
    tell("\n2. product-sync sync")
    with summaries.progress_bar() as on_progress:
        report = api.sync(on_progress=on_progress)
    summaries.show_sync(report.raise_for_error())
    _expect("inserted", report.inserted, planted.loadable)
    _expect("updated", report.updated, planted.changed)
    _expect("quarantined", report.quarantined, sum(planted.quarantined.values()))


def _validate(planted: Planted, tell: Callable[[str], None]) -> None:
    tell("\n3. product-sync validate --json")
    report = api.validate().raise_for_error()
    tell(json.dumps(report.as_json(), indent=1))
    _expect("missing_in_target", report.missing_in_target, 0)
    _expect("changed", report.changed, 0)
    _expect("extra_in_target", report.extra_in_target, planted.extra)


def _sync_again(tell: Callable[[str], None]) -> None:
    tell("\n4. product-sync sync, once more: nothing is left to write")
    report = api.sync()
    summaries.show_sync(report.raise_for_error())
    _expect("inserted", report.inserted, 0)
    _expect("updated", report.updated, 0)


def _expect(name: str, reported: object, planted: object) -> None:
    if reported != planted:
        raise DemoFailed(
            f"The demo planted {name} = {planted}, the sync reported {reported}.",
            hint="This is a bug: please report it.",
        )
