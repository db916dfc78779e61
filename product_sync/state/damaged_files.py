"""Sets damaged files of the state folder aside, so that the next run can begin them anew.

A file can be damaged by a power failure, a full disk of an older version, or a person. It is renamed and not deleted:
somebody may want to look at it.
"""

from __future__ import annotations

import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path

#: How many damaged files or folders of one name stay.
KEPT_DAMAGED = 3
_LOG = logging.getLogger("product_sync.state")


def set_aside(path: Path, what: str, lost: str) -> Path:
    """Rename ``path`` and say so; returns its new path. ``what`` names it for people, ``lost`` says what that costs."""
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    path.rename(aside)
    _LOG.warning("%s was damaged and has been set aside as %s. %s", what, aside, lost)
    for old in sorted(path.parent.glob(f"{path.name}.damaged-*"))[:-KEPT_DAMAGED]:
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)
    return aside
