"""Asset checks that turn the two systems and the asset `health` red in the UI when a server is down.

The two systems are external assets: nothing of ours materialises them, so only a check can colour them. The health
sensor records the evaluations with what it saw; a person can execute the checks at any time from the UI.
"""

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from product_sync.notify.alerts import Level
from product_sync.orchestration import names

if TYPE_CHECKING:
    from product_sync.support.health import ConnectionHealth

#: The check of each side, by the name of the side in `product_sync.support.health`.
_OF_SIDE = {
    "mongodb": dg.AssetCheckKey(dg.AssetKey(names.MONGODB), names.MONGODB_CONNECTION),
    "postgres": dg.AssetCheckKey(dg.AssetKey(names.POSTGRES), names.POSTGRES_CONNECTION),
}
_BOTH = dg.AssetCheckKey(dg.AssetKey(names.HEALTH), names.BOTH_CONNECTIONS)


@dg.multi_asset_check(
    name="connections",
    specs=[
        dg.AssetCheckSpec(
            names.MONGODB_CONNECTION,
            asset=names.MONGODB,
            description="MongoDB answers, and has what a sync needs. Evaluated every five minutes by a sensor.",
        ),
        dg.AssetCheckSpec(
            names.POSTGRES_CONNECTION,
            asset=names.POSTGRES,
            description="PostgreSQL answers, and has what a sync needs. Evaluated every five minutes by a sensor.",
        ),
        dg.AssetCheckSpec(
            names.BOTH_CONNECTIONS,
            asset=names.HEALTH,
            description="Both servers answer, and have what a sync needs. Evaluated every five minutes by a sensor.",
        ),
    ],
    can_subset=True,
)
def connections(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
    """Looks at both servers now."""
    from product_sync.support.health import check_both_sides

    for evaluation in evaluations(check_both_sides(os.environ)):
        if evaluation.asset_check_key in context.selected_asset_check_keys:
            yield dg.AssetCheckResult(
                passed=evaluation.passed,
                check_name=evaluation.check_name,
                asset_key=evaluation.asset_key,
                severity=evaluation.severity,
                description=evaluation.description,
                metadata=evaluation.metadata,
            )


def evaluations(looks: "Sequence[ConnectionHealth]") -> list[dg.AssetCheckEvaluation]:
    """What the looks at both sides say, as an evaluation of each check."""
    made = [_evaluation(_OF_SIDE[look.side], [look]) for look in looks]
    return [*made, _evaluation(_BOTH, looks)]


def _evaluation(check: dg.AssetCheckKey, looks: "Sequence[ConnectionHealth]") -> dg.AssetCheckEvaluation:
    wrong = [look for look in looks if look.level is not Level.OK]
    failed = any(look.level is Level.ERROR for look in wrong)
    return dg.AssetCheckEvaluation(
        asset_key=check.asset_key,
        check_name=check.name,
        passed=not wrong,
        severity=dg.AssetCheckSeverity.ERROR if failed or not wrong else dg.AssetCheckSeverity.WARN,
        description=" ".join(look.text for look in wrong or looks),
        metadata={name: value for look in looks for name, value in look.facts.items()},
    )
