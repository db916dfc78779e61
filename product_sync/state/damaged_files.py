"""Sets damaged files of the state folder aside, so that the next run can write new ones.

A power failure, a full disk or a person can damage a file. It is renamed and not deleted, so that it can be examined.
"""

from __future__ import annotations

import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path

#: How many damaged files or folders of one name are kept.
KEPT_DAMAGED = 3
_LOG = logging.getLogger("product_sync.state")


def set_aside(path: Path, what: str, lost: str) -> Path:
    """Rename ``path`` and log a warning; returns the new path. ``what`` names the file, ``lost`` says what it costs."""
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    path.rename(aside)
    _LOG.warning("%s was damaged and has been set aside as %s. %s", what, aside, lost)
    for old in sorted(path.parent.glob(f"{path.name}.damaged-*"))[:-KEPT_DAMAGED]:
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)
    return aside
