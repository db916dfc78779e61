"""The judge of the distributed campaign finds planted harm. `orchestration/test_workers.py` plays such a round."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from product_sync_torture.distributed.judge import Evidence, RunRecord, Write, violations

_AT = datetime(2026, 1, 1, tzinfo=UTC)
_WANTED = {"a": ("a", 1), "b": ("b", 2), "c": ("c", 3)}


def _write(key: str, run: str, seconds: int) -> Write:
    return Write(key, run, _AT + timedelta(seconds=seconds))


#: A run that was killed after its first row, and the next one, which does the rest.
_GOOD = Evidence(
    wanted=_WANTED,
    rows=_WANTED,
    writes=[_write("a", "first", 1), _write("b", "next", 60), _write("c", "next", 61)],
    runs=[RunRecord("first", False, {}), RunRecord("next", True, {"inserted": 1, "updated": 1, "conflicts": 0})],
    ended_at=_AT,
)


def test_a_round_without_harm_has_no_violation() -> None:
    assert list(violations(_GOOD)) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rows": {"a": ("a", 1), "b": ("b", 0)}}, "2 rows are wrong, such as ['b', 'c']"),
        ({"writes": [*_GOOD.writes, _write("a", "next", 62)]}, "1 rows were written twice, such as ['a']"),
        ({"writes": [*_GOOD.writes[1:], _write("a", "first", 61)]}, "two runs wrote the table at once"),
        ({"writes": [_write("a", "first", 31), *_GOOD.writes[1:]]}, "a step wrote 31 s after the end of its run"),
        ({"runs": [_GOOD.runs[0], replace(_GOOD.runs[1], succeeded=False)]}, "the next run failed"),
        (
            {"runs": [RunRecord("first", True, {"inserted": 1}), _GOOD.runs[1]]},
            "the run was green, and left 2 rows to the next one",
        ),
        (
            {"runs": [_GOOD.runs[0], replace(_GOOD.runs[1], counts={"inserted": 2, "conflicts": 1})]},
            "run next wrote 2 rows, and says: {'inserted': 2, 'conflicts': 1}",
        ),
        (
            {"runs": [_GOOD.runs[0], replace(_GOOD.runs[1], counts={"inserted": 3})]},
            "run next wrote 2 rows, and says: {'inserted': 3}",
        ),
    ],
)
def test_planted_harm_is_found(changed: dict[str, object], said: str) -> None:
    assert said in violations(replace(_GOOD, **changed))  # type: ignore[arg-type]
