"""Asset checks that turn the two systems and the asset `health` red in the UI when a server is down.

The two systems are external assets that no step materialises, so only a check can show their state. The health sensor
records the evaluations; a person can also execute the checks in the UI.
"""

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from product_sync.notify.alerts import Level
from product_sync.orchestration import names
from product_sync.schema.definition import SyncDefinition

if TYPE_CHECKING:
    from product_sync.support.health import ConnectionHealth

_EVERY = "A sensor evaluates this check every five minutes."
_SPECS = {
    "mongodb": dg.AssetCheckSpec(
        names.MONGODB_CONNECTION,
        asset=names.MONGODB,
        description=f"MongoDB answers and meets the requirements of a sync. {_EVERY}",
    ),
    "postgres": dg.AssetCheckSpec(
        names.POSTGRES_CONNECTION,
        asset=names.POSTGRES,
        description=f"PostgreSQL answers and meets the requirements of a sync. {_EVERY}",
    ),
    "both": dg.AssetCheckSpec(
        names.BOTH_CONNECTIONS,
        asset=names.HEALTH,
        description=f"Both servers answer and meet the requirements of a sync. {_EVERY}",
    ),
}


def connections(definition: SyncDefinition) -> dg.AssetChecksDefinition:
    @dg.multi_asset_check(name="connections", specs=list(_SPECS.values()), can_subset=True)
    def check(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        """Checks both connections now."""
        from product_sync.support.health import check_both_sides

        for evaluation in evaluations(check_both_sides(definition, os.environ)):
            if evaluation.asset_check_key in context.selected_asset_check_keys:
                yield dg.AssetCheckResult(
                    passed=evaluation.passed,
                    check_name=evaluation.check_name,
                    asset_key=evaluation.asset_key,
                    severity=evaluation.severity,
                    description=evaluation.description,
                    metadata=evaluation.metadata,
                )

    return check


def evaluations(sides: "Sequence[ConnectionHealth]") -> list[dg.AssetCheckEvaluation]:
    """An evaluation of each check, from the health of both sides."""
    return [*(_evaluation(_SPECS[side.side], [side]) for side in sides), _evaluation(_SPECS["both"], sides)]


def _evaluation(check: dg.AssetCheckSpec, sides: "Sequence[ConnectionHealth]") -> dg.AssetCheckEvaluation:
    wrong = [side for side in sides if side.level is not Level.OK]
    failed = any(side.level is Level.ERROR for side in wrong)
    return dg.AssetCheckEvaluation(
        asset_key=check.asset_key,
        check_name=check.name,
        passed=not wrong,
        severity=dg.AssetCheckSeverity.ERROR if failed or not wrong else dg.AssetCheckSeverity.WARN,
        description=" ".join(side.text for side in wrong or sides),
        metadata={name: value for side in sides for name, value in side.facts.items()},
    )
