"""How a conversion rule says no.

A rule returns the canonical value or raises `ConversionError`: the many values that fit then cost no test of the
outcome. It never leaves `conversion`, where every one becomes a `Defect` of the quarantine.
"""

from __future__ import annotations

from product_sync.schema.records import Reason


class ConversionError(Exception):
    """This value cannot be copied into this column, because of ``reason``."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason
