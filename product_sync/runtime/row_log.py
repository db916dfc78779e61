"""Logs what happened to single rows, for the first of them only.

A line in Dagster's event log costs 5 to 9 ms. A load may quarantine thousands of rows: logging each one would take
longer than loading them, and would bury the lines that a person reads.
"""

from __future__ import annotations

import logging
from typing import Final

#: Rows that are logged one by one.
LOGGED_ROWS: Final = 10


class RowLog:
    """One for each load. Counts of all rows are in the load's result."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._rows = 0

    def warning(self, message: str, *values: object) -> None:
        """Log one row; after `LOGGED_ROWS` rows, log once that the others are only counted."""
        self._rows += 1
        if self._rows <= LOGGED_ROWS:
            self._logger.warning(message, *values)
        elif self._rows == LOGGED_ROWS + 1:
            self._logger.warning("More rows were refused or kept. They are counted, and not logged one by one.")
