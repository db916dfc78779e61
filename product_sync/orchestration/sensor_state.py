"""What a sensor remembers in its cursor: what people were notified of, and numbers of its own."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from product_sync.notify.alerts import AlertState


@dataclass(slots=True)
class SensorState:
    alerts: AlertState = field(default_factory=AlertState)

    @classmethod
    def read(cls, text: str | None) -> Self:
        """From the ``text`` of `write`; a new state if this version cannot read it."""
        try:
            content: dict[str, Any] = json.loads(text or "")
            return cls(**{**content, "alerts": AlertState.from_json(content["alerts"])})
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()

    def write(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))
