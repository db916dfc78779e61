"""Serves the drift reports of ``product-sync dev``, so that their links in the UI open.

A browser does not follow a link from a web page to a file. In production a web server serves the folder; here a thread
does. It serves nothing but reports, because the state folder also holds snapshots.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from product_sync.embedded.process import LOOPBACK, is_free

_REPORT = re.compile(r"/([0-9a-f-]{36}\.html)")
_NOTHING = Path("/nonexistent")


class _Handler(SimpleHTTPRequestHandler):
    def translate_path(self, path: str) -> str:
        """The file of a report; a path that does not exist for everything else."""
        name = _REPORT.fullmatch(path)
        return str(next(Path(self.directory).glob(f"*/reports/{name[1]}"), _NOTHING) if name else _NOTHING)

    def log_message(self, *_: object) -> None:
        """Log nothing: the terminal shows Dagster's log."""


@contextmanager
def serving_reports(root: Path, port: int) -> Iterator[str]:
    """Serve the reports below the state folder ``root`` while the block runs, and return their address. If ``port`` is
    in use, another one is taken."""
    server = ThreadingHTTPServer((LOOPBACK, port if is_free(port) else 0), partial(_Handler, directory=str(root)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="reports", daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
