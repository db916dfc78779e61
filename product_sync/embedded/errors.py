"""What goes wrong with the servers of the demo and the tests, with the way out in every message."""

from __future__ import annotations

from product_sync.errors import NotAttempted


class EmbeddedServerError(NotAttempted):
    """An embedded server cannot be found, started or reached; nothing was synced."""

    code = "embedded_server"


class PortInUseError(EmbeddedServerError):
    """The port was asked for by name, or went to another process between our look and the server's bind."""

    code = "port_in_use"


class FolderInUseError(EmbeddedServerError):
    """Another process runs its servers on this data folder."""

    code = "folder_in_use"
