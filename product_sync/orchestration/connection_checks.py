"""Asset checks that turn the two systems and the asset `health` red in the UI when a server is down.

The two systems are external assets that no step materialises, so only a check can show their state. The health sensor
records the evaluations; a person can also execute the checks in the UI.
"""

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import dagster as dg

from product_sync.notify.alerts import Level
from product_sync.orchestration.names import BOTH_CONNECTIONS, MONGODB_CONNECTION, POSTGRES_CONNECTION, SyncNames
from product_sync.schema.definition import SyncDefinition

if TYPE_CHECKING:
    from product_sync.support.health import ConnectionHealth

_EVERY = "A sensor evaluates this check every five minutes."


def _specs(definition: SyncDefinition) -> dict[str, dg.AssetCheckSpec]:
    """The check of each side, by the name of the side, and that of both."""
    names = SyncNames.of(definition.name)
    return {
        "mongodb": dg.AssetCheckSpec(
            MONGODB_CONNECTION,
            asset=names.source,
            description=f"MongoDB answers and meets the requirements of a sync. {_EVERY}",
        ),
        "postgres": dg.AssetCheckSpec(
            POSTGRES_CONNECTION,
            asset=names.target,
            description=f"PostgreSQL answers and meets the requirements of a sync. {_EVERY}",
        ),
        "both": dg.AssetCheckSpec(
            BOTH_CONNECTIONS,
            asset=names.health,
            description=f"Both servers answer and meet the requirements of a sync. {_EVERY}",
        ),
    }


def connections(definition: SyncDefinition) -> dg.AssetChecksDefinition:
    @dg.multi_asset_check(
        name=SyncNames.of(definition.name).connections, specs=list(_specs(definition).values()), can_subset=True
    )
    def check(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        """Checks both connections now."""
        from product_sync.support.health import check_both_sides

        for evaluation in evaluations(definition, check_both_sides(definition, os.environ)):
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


def evaluations(definition: SyncDefinition, sides: "Sequence[ConnectionHealth]") -> list[dg.AssetCheckEvaluation]:
    """An evaluation of each check, from the health of both sides."""
    specs = _specs(definition)
    return [*(_evaluation(specs[side.side], [side]) for side in sides), _evaluation(specs["both"], sides)]


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
