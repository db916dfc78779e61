"""``product-sync dev``: runs the embedded servers, the sample catalogue and the Dagster UI until Ctrl-C.

It also serves the drift reports, so that their links in the UI open: a browser does not follow a link from a web page
to a file. In production a web server serves the folder. Nothing but reports is served, because the state folder also
holds snapshots.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from product_sync.embedded import environment
from product_sync.embedded.catalogue import fill
from product_sync.embedded.process import LOOPBACK, EmbeddedServerError, is_free, port_in_use
from product_sync.embedded.sellers import fill_sellers, mapping_folder
from product_sync.embedded.servers import Servers, running
from product_sync.runtime import hints

_STOP_S = 30.0
_REPORT = re.compile(r"/([0-9a-f-]{36}\.html)")
_NOTHING = Path("/nonexistent")


def run_dev(folder: Path, port: int, say: Callable[[str], None]) -> None:
    """Run until an interrupt, then stop everything. ``port`` is the UI's. Raises `EmbeddedServerError` if the port is
    in use, or if a server or the UI does not start."""
    if not is_free(port):
        raise port_in_use("The Dagster UI", port)
    new = not (folder / "dagster").exists()
    with running(folder, say=say) as servers:
        if new:
            fill(servers.mongodb_url, servers.cart_url)
            fill_sellers(servers.mongodb_url, servers.cart_url)
            say("Filled the sample catalogue, with drift planted in the cart's copy.")
        with serving_reports(servers.folder / environment.STATE_FOLDER, port + 1) as reports:
            mapping, ui_url = mapping_folder(servers.folder), f"http://{LOOPBACK}:{port}"
            script = environment.enter(servers, mapping=mapping, ui_url=ui_url, reports_url=reports)
            say(_addresses(servers, ui_url, script))
            _serve(port)
    say("Everything is stopped.")


def _addresses(servers: Servers, ui_url: str, script: Path) -> str:
    return (
        f"Dagster UI   {ui_url}\n"
        f"Data         {servers.folder}\n"
        "In another shell:\n"
        f"  {hints.shell('source', str(script))}\n"
        f"  {hints.shell('product-sync', 'sync', 'product')}\n"
        f"  {hints.shell('product-sync', 'sync', 'sellers')}\n"
        "Ctrl-C stops all of it."
    )


def _serve(port: int) -> None:
    """Run ``dagster dev`` until it ends or an interrupt arrives. It has a session of its own. So a Ctrl-C on the
    terminal reaches only us, and we stop it before its databases."""
    dagster = shutil.which("dagster", path=str(Path(sys.executable).parent)) or "dagster"
    command = [dagster, "dev", "-m", "product_sync.definitions", "-h", LOOPBACK, "-p", str(port)]
    # A background job of a shell ignores SIGINT, its children inherit that, and only SIGINT stops Dagster.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, start_new_session=True)  # noqa: S603 - our own command line
    try:
        status = process.wait()
    except KeyboardInterrupt:
        return
    finally:
        _stop(process)
    raise EmbeddedServerError(f"The Dagster UI ended with status {status}.", hint="Its log is above.")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let Dagster stop its processes, and kill those that remain after `_STOP_S` or a second Ctrl-C."""
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class _Handler(SimpleHTTPRequestHandler):
    def translate_path(self, path: str) -> str:
        """The file of a report; a path that does not exist for everything else."""
        name = _REPORT.fullmatch(path)
        return str(next(Path(self.directory).glob(f"*/reports/{name[1]}"), _NOTHING) if name else _NOTHING)

    def log_message(self, *_: object) -> None:
        """Log nothing: the terminal shows Dagster's log."""


@contextlib.contextmanager
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
