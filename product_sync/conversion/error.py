"""The error with which a conversion rule refuses a value.

It never leaves `conversion`: each one becomes a `Defect` of the quarantine.
"""

from __future__ import annotations

from product_sync.schema.records import Reason


class ConversionError(Exception):
    """This value cannot be copied into this column, because of ``reason``."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason
