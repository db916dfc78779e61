"""Limits that are constants of the code and stand in sentences of the guide."""

from __future__ import annotations

import re

import pytest

from product_sync.compare import key_ranges
from product_sync.conversion.extended_json import EXCERPT_LENGTH
from product_sync.load import batching
from product_sync.load.loader import DEFAULT_POLICY
from product_sync.orchestration import local_history
from product_sync.settings import RunOptions
from product_sync.state import retention
from product_sync.verify import checks
from product_sync_tests.docs.pages import page

_WORDS = {1: "one", 2: "two", 5: "five", 8: "eight", 10: "ten"}
_SETTINGS = RunOptions()


def share(value: float) -> str:
    return f"{value * 100:g} %"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("settings.md", f"a source that shrank by {share(checks.MAX_SHRINK)}"),
        ("settings.md", f"more than {checks.MASS_CHANGE_ROWS} rows and half of the target overwritten"),
        ("settings.md", f"{_WORDS[DEFAULT_POLICY.failures_in_row]} failing batches in a row"),
        ("settings.md", f"or {share(DEFAULT_POLICY.isolated_share)} of the planned rows"),
        ("settings.md", f"ends at {batching.MAX_BATCH_BYTES // 2**20} MiB too"),
        ("errors.md", f"more than {share(checks.MAX_SHRINK)} smaller than at the last run that passed"),
        ("errors.md", f"more than {DEFAULT_POLICY.isolated_rows:,} rows are refused".replace(",", " ")),
        ("errors.md", f"{_WORDS[DEFAULT_POLICY.failures_in_row]} batches in a row fail"),
        ("errors.md", f"they are more than {share(_SETTINGS.max_delete_share)} of the target"),
        ("quarantine.md", f"the first {EXCERPT_LENGTH} characters"),
        ("quarantine.md", f"red over {share(_SETTINGS.quarantine_budget)} of the source"),
        ("plan.md", f"({share(_SETTINGS.max_drift_growth)} of the plan)"),
        ("plan.md", f"Plans are kept for {'a day' if retention.KEPT_PLANS.days == 1 else 'another time'}"),
        ("tuning.md", f"the last {_WORDS[retention.KEPT_RUNS]} runs"),
        ("tuning.md", f"its newest {_WORDS[local_history.KEPT_RUNS]} runs"),
        ("tuning.md", f"in ranges of ids of at most {key_ranges.LIMITS.range_bytes // 2**20} MiB"),
    ],
)
def test_a_limit_is_the_one_of_the_code(name: str, sentence: str) -> None:
    assert sentence in re.sub(r"\s+", " ", page(name).text)
