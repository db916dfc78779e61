"""Compares a MongoDB collection with its copy in PostgreSQL, repairs the differences and verifies the result.

The names of this package are imported when they are first used: Dagster imports the package for each of its processes,
and ``product-sync --help`` should not wait for a database driver.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from product_sync.api import doctor, quarantine, show, stats, sync, validate
    from product_sync.orchestration.build import build_sync_definitions
    from product_sync.orchestration.component import SyncComponent
    from product_sync.schema.definition import SyncDefinition

    __version__: str

__all__ = [
    "SyncComponent",
    "SyncDefinition",
    "__version__",
    "build_sync_definitions",
    "doctor",
    "quarantine",
    "show",
    "stats",
    "sync",
    "validate",
]
_ELSEWHERE = {
    "SyncComponent": "orchestration.component",
    "SyncDefinition": "schema.definition",
    "build_sync_definitions": "orchestration.build",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    if name in __all__:
        return getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'api')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """`dg list components` looks for components here."""
    return [*globals(), *__all__]
