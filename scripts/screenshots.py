#!/usr/bin/env python
"""Takes the pictures of docs/images: creates drift, repairs it, and opens the Dagster UI in a browser.

It needs Chromium, and Playwright and Pillow in the environment:

    .venv/bin/python -m pip install playwright pillow
    .venv/bin/python scripts/screenshots.py [NAME ...]   # CHROMIUM=/path/to/chromium if it is not on the PATH

It uses its own servers in a temporary folder and takes about five minutes. Check each picture before you commit it: a
page may not have loaded.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from bson import ObjectId
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from pymongo import MongoClient

from product_sync.embedded import environment
from product_sync.embedded.catalogue import COLLECTION, fill
from product_sync.embedded.dev import serving_reports
from product_sync.embedded.process import LOOPBACK, free_port
from product_sync.embedded.servers import Servers, running

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
BIN = Path(sys.executable).parent
#: Minutes after which the copy is no longer proven: short, so that a picture can show it.
FRESH_MINUTES = 2
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
COLOURS = 256
#: The day on which only the source's changes are compared; the last day's sync compares everything.
DAY_OF_A_PASS = 4


@dataclass(frozen=True)
class Picture:
    """``path`` of the UI, or a whole address; ``shows`` is a text to wait for, ``clicks`` texts to click on before."""

    name: str
    path: str
    shows: str
    size: tuple[int, int]
    clicks: tuple[str, ...] = ()


GRAPH = "/locations/product_sync.definitions/asset-groups/product_sync/lineage"
WORK = [
    Picture("product-diff", "/assets/product_diff", "first_missing", (1500, 1480)),
    Picture("drift-plots", "/assets/product_diff", "dagster/row_count", (1500, 1330), ("Plots",)),
    Picture("quarantine", "/assets/quarantined_products", "first_quarantined", (1500, 1500)),
    Picture("drift-report-asset", "/assets/drift_report", "first_explained", (1500, 1400)),
    Picture("asset-graph", GRAPH, "2 / 3 Passed", (1800, 860)),
    Picture("health", "/assets/health", "mongodb_latency_ms", (1500, 1000)),
    Picture("automation", "/automation", "tell_of_runs", (1300, 500)),
]
#: Taken after the pass: the next sync adds a record of its own, which does not have what the pass repaired.
CHANGES = Picture("changes", "/assets/product_changes", "change_to_repair_s", (1500, 1000))
CHECK = Picture("check", "/assets/product_load?view=checks", "missing_ids", (1500, 1000), ("target_matches_source",))
PROGRESS = Picture("progress", "/assets/product_load?view=events", "progress_percent", (1300, 640))
RED = Picture("proven-copy", "/assets/proven_copy", "proven_source_count", (1500, 860))


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell begins with it ignored
    with tempfile.TemporaryDirectory(prefix="screenshots-") as folder, running(Path(folder) / "data") as servers:
        fill(servers.mongodb_url, servers.cart_url)
        state = servers.folder / environment.STATE_FOLDER
        ui = f"http://{LOOPBACK}:{free_port()}"
        with serving_reports(state, free_port()) as reports:
            environment.enter(servers, ui_url=ui, reports_url=reports)
            with dagster_dev(ui), browser(Path(folder) / "browser") as page:
                take_all(servers, state, ui, reports, page)


def take_all(servers: Servers, state: Path, ui: str, reports: str, page: Page) -> None:
    product_sync("sync", "--dry-run")
    load = subprocess.Popen([BIN / "product-sync", "sync", "--batch-size", "8", "--delay-ms", "1000"])
    time.sleep(38)
    take(page, ui, PROGRESS)
    load.wait()
    for day in range(1, 6):
        drift(servers, random.Random(day), day)
        product_sync("sync", *(["--changes"] if day == DAY_OF_A_PASS else []))
        if day == DAY_OF_A_PASS:
            take(page, ui, CHANGES)
    run_id = max((state.glob("*/reports/*.html")), key=lambda file: file.stat().st_mtime).stem
    for picture in WORK:
        take(page, ui, picture)
    take(page, ui, Picture("run", f"/runs/{run_id}?logs=drift_report", "View Asset", (1500, 690)))
    take(page, ui, Picture("drift-report", f"{reports}/{run_id}.html", "The differences", (1300, 1500)))
    drift(servers, random.Random(99), 2)
    product_sync("validate")
    take(page, ui, CHECK)
    if wanted(RED):
        wait_until_overdue(page, ui)
        take(page, ui, RED)


def drift(servers: Servers, shop: random.Random, day: int) -> None:
    """A day in the shop: events that were lost, hands on the cart's table, and a price that cannot be copied."""
    with MongoClient[dict[str, Any]](servers.mongodb_url) as client, psycopg.connect(servers.cart_url) as cart:
        products = client.get_default_database()[COLLECTION]
        usual = {"_id": {"$type": "objectId"}, "price": {"$type": "int", "$gt": 0}, "title": {"$type": "string"}}
        found = list(products.find(usual).sort("_id", 1))
        shop.shuffle(found)
        some = iter(found)
        for _ in range(6 + shop.randrange(20)):
            one = next(some)
            products.update_one({"_id": one["_id"]}, {"$set": {"price": one["price"] + 100}})
        for _ in range(shop.randrange(5)):
            one = next(some)
            products.update_one({"_id": one["_id"]}, {"$set": {"title": f"{one['title']}, 2nd edition"}})
        for _ in range(shop.randrange(4)):
            cart.execute("UPDATE product SET quantity = quantity + 7 WHERE id = %s", (str(next(some)["_id"]),))
        for _ in range(shop.randrange(1, 4)):
            cart.execute(
                "DELETE FROM product WHERE id = %s AND id NOT IN (SELECT product_id FROM cart_item)",
                (str(next(some)["_id"]),),
            )
        for _ in range(shop.randrange(1, 3)):
            products.delete_one({"_id": next(some)["_id"]})
        products.insert_many([{**next(some), "_id": ObjectId()} for _ in range(1 + day % 3)])
        products.update_one({"_id": next(some)["_id"]}, {"$set": {"price": 19.99}})


def wait_until_overdue(page: Page, ui: str) -> None:
    deadline = time.monotonic() + 60 * FRESH_MINUTES + 180
    while time.monotonic() < deadline:
        page.goto(f"{ui}{RED.path}")
        page.get_by_text("Freshness policy").first.wait_for()
        page.wait_for_timeout(3_000)
        if page.get_by_text("Failed", exact=True).count():  # the description of the asset says "failed" too
            return
        time.sleep(10)
    raise SystemExit("The freshness policy did not turn red: does the daemon run?")


def wanted(picture: Picture) -> bool:
    return picture.name in sys.argv[1:] or not sys.argv[1:]


def take(page: Page, ui: str, picture: Picture) -> None:
    if not wanted(picture):
        return
    page.set_viewport_size({"width": picture.size[0], "height": picture.size[1]})
    page.goto(picture.path if picture.path.startswith("http") else f"{ui}{picture.path}")
    for text in picture.clicks:
        page.get_by_text(text, exact=True).first.click()
    page.get_by_text(picture.shows).first.wait_for()
    page.wait_for_timeout(2_500)  # for plots and counts that follow
    with Image.open(io.BytesIO(page.screenshot())) as image:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(
            IMAGES / f"{picture.name}.png", optimize=True
        )
    sys.stderr.write(f"{picture.name}.png: {(IMAGES / f'{picture.name}.png').stat().st_size / 1000:.0f} kB\n")


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=chromium, headless=True, args=FLAGS, timezone_id="UTC", locale="en-GB"
        )
        page = context.new_page()
        page.set_default_timeout(120_000)  # a busy machine loads a page slowly
        yield page
        context.close()


@contextmanager
def dagster_dev(ui: str) -> Iterator[None]:
    settings = {
        "PRODUCT_SYNC_FRESH_MINUTES": str(FRESH_MINUTES),
        "PRODUCT_SYNC_DOCS_URL": "https://docs.example.org/product_sync",
        "ENABLE_SCHEDULER": "false",
    }
    command = [BIN / "dagster", "dev", "-m", "product_sync.definitions", "-h", LOOPBACK, "-p", ui.rpartition(":")[2]]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            env=os.environ | settings,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=tempfile.gettempdir(),
        )
        try:
            _wait_for(f"{ui}/server_info")
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def _wait_for(address: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(1)
        else:
            return
    raise SystemExit(f"{address} does not answer.")


def product_sync(*arguments: str) -> None:
    """Its exit status is a part of the story."""
    subprocess.run([BIN / "product-sync", *arguments], check=False, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
