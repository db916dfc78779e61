"""A slow channel delays the caller until its limit at most, and the other channels not at all."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from product_sync.notify.alerts import write_state
from product_sync.notify.dispatch import NotificationState, notify_of_runs
from product_sync.settings import ALERT_URLS, HEARTBEAT_URL, METRICS_FILE, METRICS_PUSH_URL, NotificationSettings
from product_sync_tests.market import wait_until
from product_sync_tests.notify.test_dispatch import failed, passed
from product_sync_tests.receivers import PATIENT, web_receiver

LOG = logging.getLogger("product_sync.notify.dispatch")
#: Far more than a round is given, far less than any of these servers would take.
SLACK_S = 20.0
Behaviour = Callable[[socket.socket], None]


class SlowServer:
    """Takes connections, and does to each what ``behaviour`` says, until it is closed."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.connections = 0
        self._behaviour = behaviour
        self._sockets = [socket.create_server(("127.0.0.1", 0))]
        self.port = self._sockets[0].getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._sockets[0].accept()
                self.connections += 1
                self._sockets.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._behaviour(client)


def silent(_: socket.socket) -> None:
    """Neither answers nor hangs up: an SMTP server that never greets, a TLS handshake that never comes."""


def drip(client: socket.socket) -> None:
    """Answers a byte at a time and does not come to an end: no limit on one read ever ends this."""
    client.recv(65_536)
    client.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        client.sendall(b".")
        time.sleep(0.1)


@contextmanager
def slow_server(behaviour: Behaviour) -> Iterator[SlowServer]:
    server = SlowServer(behaviour)
    try:
        yield server
    finally:
        server.close()


def test_addresses_that_hang_delay_nobody_and_the_others_get_the_alert_at_once() -> None:
    state, quick = NotificationState(0.0), list[float]()
    with web_receiver() as web, slow_server(silent) as mute, slow_server(drip) as dripping:
        slow = (
            f"json://127.0.0.1:{mute.port}/?{PATIENT}",
            f"jsons://127.0.0.1:{mute.port}/?{PATIENT}",
            f"mailto://127.0.0.1:{mute.port}?smtp=127.0.0.1&mode=insecure&from=a@b.example&to=c@d.example&{PATIENT}",
            f"json://127.0.0.1:{dripping.port}/?{PATIENT}",
        )
        settings = NotificationSettings.from_environment({ALERT_URLS: " ".join([*slow, web.apprise])})
        began = time.monotonic()

        def watch_the_quick_one() -> None:
            wait_until(lambda: web.alerts)
            quick.append(time.monotonic())

        watch = threading.Thread(target=watch_the_quick_one)
        watch.start()
        result = notify_of_runs(state, [failed()], settings, LOG, within_s=2.0)
        took = time.monotonic() - began
        watch.join()
        assert 2.0 <= took < SLACK_S
        assert quick[0] - began < took, "it did not wait behind the slow ones"
        assert len(result.problems) == len(slow)
        assert all("no answer after 2 seconds" in problem for problem in result.problems)
        assert (result.waiting, len(web.alerts)) == (1, 1)
        wait_until(lambda: mute.connections == 3)

        again = notify_of_runs(state, [], settings, LOG, within_s=0.1)
        assert again.waiting == 1
        assert (mute.connections, dripping.connections) == (3, 1), "an open call is not doubled"
        assert len(web.alerts) == 1


def test_what_a_slow_address_accepts_in_the_end_is_not_sent_to_it_again() -> None:
    state, answer = NotificationState(0.0), threading.Event()

    def late(client: socket.socket) -> None:
        client.recv(65_536)
        answer.wait(60)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        client.close()

    with slow_server(late) as server:
        settings = NotificationSettings.from_environment({ALERT_URLS: f"json://127.0.0.1:{server.port}/?{PATIENT}"})
        assert notify_of_runs(state, [failed()], settings, LOG, within_s=1.0).waiting == 1
        state = NotificationState.read(write_state(state), 0.0)
        answer.set()
        wait_until(lambda: notify_of_runs(state, [], settings, LOG, within_s=0.1).waiting == 0)
        assert server.connections == 1


def test_monitors_that_hang_delay_nobody_and_no_alert(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The heartbeat drips, the gateway is silent, and the file system of the metrics file hangs."""
    metrics_file = tmp_path / "product_sync.prom"
    hanging = tmp_path / f".product_sync.prom.{os.getpid()}"
    os.mkfifo(hanging)  # opening it to write waits until somebody reads
    with web_receiver() as web, slow_server(drip) as heartbeat, slow_server(silent) as gateway:
        settings = NotificationSettings.from_environment(
            {
                ALERT_URLS: web.apprise,
                HEARTBEAT_URL: f"http://127.0.0.1:{heartbeat.port}/",
                METRICS_FILE: str(metrics_file),
                METRICS_PUSH_URL: f"http://127.0.0.1:{gateway.port}",
            }
        )
        began = time.monotonic()
        notify_of_runs(NotificationState(0.0), [passed("a"), failed("b")], settings, LOG, within_s=2.0)
        assert time.monotonic() - began < SLACK_S
        assert len(web.alerts) == 1
        for name in (HEARTBEAT_URL, METRICS_FILE, METRICS_PUSH_URL):
            assert f"{name} has not answered after" in caplog.text
        reader = os.open(hanging, os.O_RDONLY)
        wait_until(lambda: metrics_file.exists() or not hanging.exists())
        os.close(reader)
