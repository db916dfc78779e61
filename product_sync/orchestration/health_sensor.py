"""The health sensor checks both connections every five minutes, also while runs wait in the queue.

It does not launch a run, because that run would wait behind the load (docs/decisions/0060).
"""

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg

from product_sync.notify.channels import resolve_channels
from product_sync.notify.dispatch import send_updates
from product_sync.orchestration.connection_checks import evaluations
from product_sync.orchestration.names import SyncNames
from product_sync.orchestration.sensor_errors import notifies_of_its_errors
from product_sync.orchestration.sensor_state import SensorState
from product_sync.schema.definition import SyncDefinition

if TYPE_CHECKING:
    from product_sync.support.health import ConnectionHealth

#: Seconds between two records of an unchanged state. Dagster never purges these records.
RECORD_EVERY_S = 3_600.0


@dataclass(slots=True)
class HealthState(SensorState):
    """The sensor's cursor. ``levels`` are those of the newest record, made at ``recorded_at`` (seconds since 1970)."""

    levels: dict[str, str] = field(default_factory=dict)
    recorded_at: float = 0.0

    def must_record(self, levels: dict[str, str], now: float) -> bool:
        """Whether ``levels`` have changed or the last record is old. If so, they count as recorded from then on."""
        # The age is negative if the clock was set back.
        if levels == self.levels and 0 <= now - self.recorded_at < RECORD_EVERY_S:
            return False
        self.levels, self.recorded_at = levels, now
        return True


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
        from product_sync.support.health import check_both_sides

        state = HealthState.read(context.cursor)
        sides = check_both_sides(definition, os.environ)
        now = time.time()
        channels = resolve_channels(os.environ)
        updates = [side.status_update(now, definition.name) for side in sides]
        result = send_updates(state.alerts, updates, channels.settings, context.log)
        records = state.must_record({side.side: str(side.level) for side in sides}, now)
        return dg.SensorResult(
            skip_reason=" ".join([*(side.text for side in sides), str(result), *map(str, channels.mistakes.values())]),
            cursor=state.write(),
            asset_events=[_observation(names, sides), *evaluations(definition, sides)] if records else [],
        )

    return sensor


def _observation(names: SyncNames, sides: "list[ConnectionHealth]") -> dg.AssetObservation:
    metadata: dict[str, Any] = {}
    for side in sides:
        metadata[side.side] = f"{_WORDS[str(side.level)]}: {side.text}"
        metadata |= side.facts
    return dg.AssetObservation(asset_key=names.health, metadata=metadata)


_WORDS = {"OK": "healthy", "WARN": "warning", "ERROR": "failed"}
