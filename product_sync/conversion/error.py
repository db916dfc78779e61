"""The error with which a conversion rule refuses a value.

It never leaves `conversion`: each one becomes a `Defect` of the quarantine.
"""

from __future__ import annotations

from typing import Any, Self

from product_sync.schema.records import Reason


class ConversionError(Exception):
    """This value cannot be copied into this column, because of ``reason``. If the fault is inside the value, ``place``
    is the way to it, such as ``.sizes[2]``, and ``value`` is what is there."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason
        self.place = ""
        self.value: Any = None

    def inside(self, step: str, value: Any) -> Self:
        """The same fault as its container sees it: ``step`` leads to the member ``value``, which has the fault."""
        if not self.place:
            self.value = value
        self.place = step + self.place
        return self


def require_text(value: str) -> None:
    """Raises `ConversionError` for a text that PostgreSQL cannot hold. A byte that is not UTF-8 is decoded as a lone
    surrogate."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ConversionError(Reason.INVALID_UTF8) from None
    if "\0" in value:
        raise ConversionError(Reason.NUL_CHARACTER)
