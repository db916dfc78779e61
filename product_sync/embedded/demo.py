"""``make demo``: finds, shows and repairs drift between a real MongoDB and a real PostgreSQL, and verifies the result.

Every number is compared with the planted drift, so the demo fails if a report is wrong.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from product_sync import api
from product_sync.embedded import environment, sellers
from product_sync.embedded.catalogue import Planted, fill
from product_sync.embedded.servers import running
from product_sync.errors import ProductSyncError
from product_sync.settings import state_root
from product_sync.terminal.answers import print_report
from product_sync.terminal.progress import progress_bar
from product_sync.terminal.summaries import show_sync


class DemoFailed(ProductSyncError):
    """A report does not match the planted drift."""

    code = "demo_failed"


def run_demo(folder: Path, say: Callable[[str], None]) -> None:
    """Start the servers on ``folder``, plant drift, dry-run, sync, validate, sync again, sync the sellers, and stop
    everything. Raises `DemoFailed` if a report does not match the planted drift, and the errors of the sync."""
    say("Starting a real MongoDB (a replica set of one) and a real PostgreSQL …")
    with running(folder, say=say) as servers:
        environment.enter(servers)
        # The catalogue is planted again, so the state of an earlier demo would be wrong.
        shutil.rmtree(state_root(os.environ), ignore_errors=True)
        planted = fill(servers.mongodb_url, servers.cart_url)
        sellers.fill_sellers(servers.mongodb_url, servers.cart_url)
        say(_what_was_planted(planted))
        expected = {"missing": planted.missing, "changed": planted.changed, "extra": planted.extra}
        _sync("1. product-sync sync --dry-run", expected, say, dry_run=True)
        quarantined = sum(planted.quarantined.values())
        expected = {"inserted": planted.loadable, "updated": planted.changed, "quarantined": quarantined}
        _sync("2. product-sync sync", expected, say)
        say("\n3. product-sync validate --json")
        report = api.validate().raise_for_error()
        say(json.dumps(report.as_json(), indent=1))
        _expect(report, {"missing_in_target": 0, "changed": 0, "extra_in_target": planted.extra})
        title = "4. product-sync sync, once more: nothing is left to write"
        _sync(title, {"inserted": 0, "updated": 0}, say)
        expected = {"inserted": sellers.MISSING, "updated": sellers.CHANGED, "extra": sellers.EXTRA}
        title = "5. product-sync sync sellers: a second sync, with drift of its own"
        _sync(title, expected, say, sync=sellers.definition())
    say("\nEverything is stopped. `make dev` shows these runs in the Dagster UI.")


def _what_was_planted(planted: Planted) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(planted.quarantined.items()))
    return (
        f"The catalogue has {planted.source_count:,} products, the cart's copy {planted.target_count:,} rows."
        f" Planted: {planted.missing} missing, {planted.changed} changed, {planted.extra} extra"
        f" ({planted.extra_referenced} of them in a cart).\nDocuments that cannot be copied: {reasons}."
        f"\nThere are {sellers.SOURCE_COUNT} sellers. Planted: {sellers.MISSING} missing, {sellers.CHANGED} changed,"
        f" {sellers.EXTRA} extra."
    )


def _sync(title: str, expected: Mapping[str, int], say: Callable[[str], None], **options: Any) -> None:
    say(f"\n{title}")
    with progress_bar() as on_progress:
        report = api.sync(on_progress=on_progress, **options)
    print_report(report.raise_for_error(), False, show_sync)
    _expect(report, expected)


def _expect(report: object, expected: Mapping[str, int]) -> None:
    for name, planted in expected.items():
        if (reported := getattr(report, name)) != planted:
            raise DemoFailed(
                f"The demo planted {name} = {planted}, the sync reported {reported}.",
                hint="This is a bug: please report it.",
            )
