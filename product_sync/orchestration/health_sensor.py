"""The health sensor checks both connections every five minutes, also while runs wait in the queue.

It does not launch a run, because that run would wait behind the load (docs/decisions/0060). It records asset checks,
which turn the two systems and the asset `health` red in the UI. A person can also execute these checks there.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import dagster as dg

from product_sync.notify.alerts import Level, read_state, write_state
from product_sync.notify.channels import resolve_channels
from product_sync.notify.dispatch import send_updates
from product_sync.orchestration.names import CONNECTIONS, SyncNames, check_specs
from product_sync.orchestration.ticks import Cursor, notifies_of_its_errors
from product_sync.schema.definition import SyncDefinition
from product_sync.support.health import ConnectionHealth, check_both_sides

#: Seconds between two records of an unchanged state.
RECORD_EVERY_S = 3_600.0


def health_sensor(definition: SyncDefinition) -> dg.SensorDefinition:
    names = SyncNames.of(definition.name)

    @dg.sensor(
        name=names.health_sensor,
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Checks both connections, the estimated counts and the replication, also during a load, and sends alerts"
            f" about failures and recovery. The page of the asset `{names.health}` has the results."
            " A server that is down turns its asset red. See docs/health.md"
        ),
    )
    @notifies_of_its_errors(names.health_sensor)
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        state = read_state(Cursor(), context.cursor)
        sides = check_both_sides(definition, os.environ)
        now = time.time()
        channels = resolve_channels(os.environ)
        updates = [side.status_update(now, definition.name) for side in sides]
        result = send_updates(state.alerts, updates, channels.settings, context.log)
        records = state.must_record(" ".join(side.level for side in sides), now, RECORD_EVERY_S)
        return dg.SensorResult(
            skip_reason=" ".join([*(side.text for side in sides), str(result), *map(str, channels.mistakes.values())]),
            cursor=write_state(state),
            asset_events=[_observation(names, sides), *check_results(dg.AssetCheckEvaluation, names, sides)]
            if records
            else [],
        )

    return sensor


def connection_checks(definition: SyncDefinition) -> dg.AssetChecksDefinition:
    names = SyncNames.of(definition.name)

    @dg.multi_asset_check(name=names.connections, specs=check_specs(names, *CONNECTIONS), can_subset=True)
    def check(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        """Checks both connections now."""
        selected = {key.name for key in context.selected_asset_check_keys}
        found = check_results(dg.AssetCheckResult, names, check_both_sides(definition, os.environ))
        yield from (each for each in found if each.check_name in selected)

    return check


_Result = TypeVar("_Result")
_WORDS = {Level.OK: "healthy", Level.WARN: "warning", Level.ERROR: "failed"}


def check_results(kind: Callable[..., _Result], names: SyncNames, sides: Sequence[ConnectionHealth]) -> list[_Result]:
    """The result of each check, for a step or, as an evaluation, for a sensor."""
    about = dict(zip(CONNECTIONS, [*([side] for side in sides), sides], strict=True))
    made = []
    for spec in check_specs(names, *about):
        wrong = [side for side in about[spec.name] if side.level is not Level.OK]
        is_warning = wrong and all(side.level is Level.WARN for side in wrong)
        made.append(
            kind(
                asset_key=spec.asset_key,
                check_name=spec.name,
                passed=not wrong,
                severity=dg.AssetCheckSeverity.WARN if is_warning else dg.AssetCheckSeverity.ERROR,
                description=" ".join(side.text for side in wrong or about[spec.name]),
                metadata={name: value for side in about[spec.name] for name, value in side.facts.items()},
            )
        )
    return made


def _observation(names: SyncNames, sides: Sequence[ConnectionHealth]) -> dg.AssetObservation:
    metadata: dict[str, Any] = {}
    for side in sides:
        metadata |= {side.side: f"{_WORDS[side.level]}: {side.text}", **side.facts}
    return dg.AssetObservation(asset_key=names.health, metadata=metadata)
