"""Finds, shows and repairs what a cart service's PostgreSQL copy of a MongoDB product catalogue has missed.

The functions of `product_sync.api` are here for scripts. They are looked up when they are asked for: Dagster imports
this package for each of its processes, and ``product-sync --help`` should not wait for a database driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from product_sync.api import doctor, quarantine, show, stats, sync, validate

    __version__: str

__all__ = ["__version__", "doctor", "quarantine", "show", "stats", "sync", "validate"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    if name in __all__:
        from product_sync import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
