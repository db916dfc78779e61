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
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from product_sync.embedded.process import LOOPBACK, is_free

_REPORT = re.compile(r"/([0-9a-f-]{36}\.html)")


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, root: Path, *arguments: object) -> None:
        self._root = root
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        name = _REPORT.fullmatch(self.path)
        page = next(self._root.glob(f"*/reports/{name[1]}"), None) if name else None
        if page is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        content = page.read_bytes()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log nothing: the terminal shows Dagster's log."""


@contextmanager
def serving_reports(root: Path, port: int) -> Iterator[str]:
    """Serve the reports below the state folder ``root`` while the block runs, and return their address. If ``port`` is
    in use, another one is taken."""
    server = ThreadingHTTPServer((LOOPBACK, port if is_free(port) else 0), partial(_Handler, root))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="reports", daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
