"""The errors of the servers of the demo and the tests."""

from __future__ import annotations

from product_sync.errors import NotAttempted


class EmbeddedServerError(NotAttempted):
    """An embedded server cannot be found, started or reached. Nothing was synced."""

    code = "embedded_server"


class PortInUseError(EmbeddedServerError):
    """Another process uses the port, or took it just before the server could bind it."""

    code = "port_in_use"


class FolderInUseError(EmbeddedServerError):
    """Another process runs its servers on this data folder."""

    code = "folder_in_use"
