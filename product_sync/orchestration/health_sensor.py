"""The health sensor: both connections, every five minutes, whatever the run queue is doing.

It looks by itself and not by a run: a run would wait behind the load that it is to look beside (docs/decisions/0060).
"""

import json
import os
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg

from product_sync.notify.alerts import AlertState
from product_sync.notify.channels import resolve_channels
from product_sync.notify.dispatch import send_updates
from product_sync.orchestration.connection_checks import evaluations
from product_sync.orchestration.names import HEALTH
from product_sync.orchestration.sensor_errors import notifies_of_its_errors

if TYPE_CHECKING:
    from product_sync.support.health import ConnectionHealth

#: Seconds between two records of a state that stays the same: what a look records is never purged.
RECORD_EVERY_S = 3_600.0


@dataclass(slots=True)
class Diary:
    """What the sensor remembers between two looks. ``levels`` are those of the newest record, made at ``recorded_at``
    (seconds since 1970)."""

    book: AlertState = field(default_factory=AlertState)
    levels: dict[str, str] = field(default_factory=dict)
    recorded_at: float = 0.0

    @classmethod
    def read(cls, text: str | None) -> "Diary":
        """From ``text``, which `write` gave; a new one where this version cannot read it."""
        try:
            content: dict[str, Any] = json.loads(text or "")
            return cls(AlertState.from_json(content["book"]), dict(content["levels"]), float(content["recorded_at"]))
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()

    def write(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    def records(self, levels: dict[str, str], now: float) -> bool:
        """Whether these levels are to be recorded, which is noted."""
        if levels == self.levels and now - self.recorded_at < RECORD_EVERY_S:
            return False
        self.levels, self.recorded_at = levels, now
        return True


@dg.sensor(
    name="product_sync_health",
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Looks at both connections, the estimated counts and the replication, also while a load is running, and tells"
        " people of what fails and of recovery. What it saw is on the page of the asset `health`, and a server that is"
        " down turns its asset red. docs/health.md"
    ),
)
@notifies_of_its_errors("product_sync_health")
def product_sync_health_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    from product_sync.support.health import check_both_sides

    diary = Diary.read(context.cursor)
    looks = check_both_sides(os.environ)
    now = time.time()
    channels = resolve_channels(os.environ)
    told = send_updates(diary.book, [look.news(now) for look in looks], channels, context.log)
    said = [*(look.text for look in looks), str(told), *map(str, channels.mistakes.values())]
    recorded = diary.records({look.side: str(look.level) for look in looks}, now)
    return dg.SensorResult(
        skip_reason=" ".join(said),
        cursor=diary.write(),
        asset_events=[_observation(looks), *evaluations(looks)] if recorded else [],
    )


def _observation(looks: "list[ConnectionHealth]") -> dg.AssetObservation:
    metadata: dict[str, Any] = {}
    for look in looks:
        metadata[look.side] = f"{_WORDS[str(look.level)]}: {look.text}"
        metadata |= look.facts
    return dg.AssetObservation(asset_key=HEALTH, metadata=metadata)


_WORDS = {"OK": "in order", "WARN": "warning", "ERROR": "failed"}
