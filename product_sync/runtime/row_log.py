"""Logs the first few refused rows of a load.

A line in Dagster's event log takes 5 to 9 ms. Logging thousands of quarantined rows would take longer than loading
them and would hide the other lines.
"""

from __future__ import annotations

import logging
from typing import Final

#: Rows that are logged one by one.
LOGGED_ROWS: Final = 10


class RowLog:
    """The log of one load. The result of the load counts all rows."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._rows = 0

    def warning(self, message: str, *values: object) -> None:
        """Log one row. After `LOGGED_ROWS` rows, say once that the others are only counted."""
        self._rows += 1
        if self._rows <= LOGGED_ROWS:
            self._logger.warning(message, *values)
        elif self._rows == LOGGED_ROWS + 1:
            self._logger.warning("More rows were refused or kept. They are counted, and not logged one by one.")
