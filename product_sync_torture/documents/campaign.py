"""One round of the campaign: a catalogue of bad documents, four runs in their own processes, and the verdict.

The first run must copy or quarantine every document. The second run must keep the quarantine and try every entry again.
The third run, after every document was corrected, must leave none in quarantine. The fourth run finds another value in
every row of the target. No run may need more memory than promised.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
import pyarrow as pa
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from product_sync.embedded.servers import Servers
from product_sync_bench.measuring import MemoryWatch
from product_sync_tests.citext import create_citext
from product_sync_tests.databases import cart_database, mongodb_database
from product_sync_torture.documents import values
from product_sync_torture.documents.catalogue import Made, catalogue, mended
from product_sync_torture.documents.columns import COLUMNS, NESTED, TYPES, Column
from product_sync_torture.documents.judge import LONGEST_KEY, OLD_TITLE, wrong_places
from product_sync_torture.surroundings import environment

#: The driver sends at most 16 MB in a command with raw documents.
_MESSAGE_BYTES: Final = 15_000_000
_MESSAGE_DOCUMENTS: Final = 1_000
_LEFT_FROM_BEFORE: Final = 60
#: Memory that a sync and its children may use.
_MOST_MB: Final = 512

_Found = dict[str, dict[str, Any]]


@dataclass
class Round:
    """``counts`` are documents by where they ended, ``reasons`` are of the quarantined ones. ``peak_mb`` is the most
    memory that a run used."""

    seed: int
    nested: bool
    documents: int = 0
    megabytes: float = 0.0
    seconds: float = 0.0
    peak_mb: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Run:
    status: int
    answer: dict[str, Any]
    stderr: str
    peak_mb: float


def play(servers: Servers, count: int, large: int, seed: int, *, wide: int = 0) -> Round:
    """A round with its own databases; ``count``, ``large`` and ``wide`` as in `catalogue`.

    With an even seed one column has a nested source, so every document is converted alone. With an odd seed, similar
    documents are converted together.
    """
    nested = seed % 2 == 0
    columns = (*COLUMNS, NESTED) if nested else COLUMNS
    played = Round(seed, nested)
    started = time.monotonic()
    with (
        mongodb_database(servers) as mongodb_url,
        cart_database(servers) as cart_url,
        tempfile.TemporaryDirectory(prefix="product_sync_torture_") as folder,
        environment(mongodb_url, cart_url, Path(folder) / "state", **_mapping(columns, Path(folder))),
    ):
        _create_table(cart_url, columns)
        made = _insert(mongodb_url, catalogue(columns, count, large, seed, wide=wide))
        _leave_old_rows(cart_url, made, columns)
        played.documents, played.megabytes = len(made), sum(len(one.raw) for one in made) / 1e6
        place = _Place(mongodb_url, cart_url, Path(folder) / "state", columns, played)
        place.first_run(made)
        place.run_again()
        healed = place.run_when_mended(made)
        place.run_when_all_changed(healed)
    played.seconds = time.monotonic() - started
    return played


@dataclass(frozen=True, slots=True)
class _Source:
    """The documents of the source, and the text ids of those that were deleted."""

    documents: list[Made]
    gone: set[str | None]


@dataclass
class _Place:
    mongodb_url: str
    cart_url: str
    state: Path
    columns: Sequence[Column]
    played: Round

    def first_run(self, made: Sequence[Made]) -> None:
        run = self._run("first run")
        rows, entries = self._rows(), self._quarantine()
        self._report(wrong_places(made, rows, entries, self.columns, self.played.counts, self.played.reasons))
        expected = sum(one.row is None for one in made) + self.played.counts["refused by the database"]
        said = (run.answer.get("source_count"), run.answer.get("quarantined"))
        if said != (len(made), expected):
            self._report([f"the run counted {said}, there are {(len(made), expected)}"])

    def run_again(self) -> None:
        before, written = self._quarantine(), self._written()
        self._run("second run")
        after = self._quarantine()
        if {key: entry["reasons"] for key, entry in before.items()} != {
            key: entry["reasons"] for key, entry in after.items()
        }:
            self._report(["the second run changed the quarantine"])
        histories = {(after[key]["attempts"], after[key]["first_seen"] == before[key]["first_seen"]) for key in before}
        if histories != {(2, True)}:
            self._report([f"not every entry was tried a second time: {histories}"])
        if self._written() != written:
            self._report(["the second run wrote rows"])

    def run_when_mended(self, made: Sequence[Made]) -> _Source:
        """Correct every document. Returns the documents of the source, and the ids of rows without one."""
        refused = {entry["id"] for entry in self._quarantine().values() if entry["stage"] == "load"}
        good = [one for one in made if one.row is not None and one.text_id not in refused]
        bad = [one for one in made if one.row is None and one.text_id is not None and _is_alone(one)]
        healed = [mended(self.columns, one, number) for number, one in enumerate(bad)]
        gone = [one for one in made if one.row is None or one.text_id in refused]
        _delete(self.mongodb_url, gone)
        now = [*good, *_insert(self.mongodb_url, healed)]
        run = self._run("mended run")
        entries = {key: entry for key, entry in self._quarantine().items() if entry["stage"] != "load"}
        self.played.counts["mended"] = len(healed)
        if entries:
            self._report([f"{len(entries)} entries are left although all documents are corrected"])
        if run.answer.get("error") and not self._quarantine():
            self._report([f"the run failed although all documents are corrected: {run.answer['error']}"])
        deleted = {one.text_id for one in gone} - {one.text_id for one in now}
        self._report(self._wrong_places(now, deleted))
        return _Source(now, deleted)

    def run_when_all_changed(self, source: _Source) -> None:
        with psycopg.connect(self.cart_url) as cart:
            cart.execute(
                "UPDATE product SET title = 'changed', note = note || '!', mood = 'sad', tag = upper(tag),"
                " day = '12024-01-01', sold = '0044-03-15 BC', facts = to_jsonb(facts::text), tags = '{{red}}',"
                " sizes = '[0:0]={NaN}', rest = '\"\\u0000\"', moods = '{NULL}',"
                " nick = upper(nick), whole = -1"
            )
        run = self._run("everything changed", "--accept-changes")
        if run.answer.get("updated", 0) < len(source.documents) // 2:
            self._report([f"everything changed: {run.answer.get('updated')} rows were updated"])
        self._report(self._wrong_places(source.documents, source.gone))

    def _wrong_places(self, documents: Sequence[Made], gone: set[str | None]) -> list[str]:
        return wrong_places(documents, self._rows(), self._quarantine(), self.columns, Counter(), Counter(), gone)

    def _run(self, name: str, *options: str) -> _Run:
        run = _sync(*options)
        self.played.peak_mb = max(self.played.peak_mb, run.peak_mb)
        if run.peak_mb > _MOST_MB:
            self._report([f"{name}: took {run.peak_mb:.0f} MB of memory"])
        if run.status not in (0, 1) or "Traceback" in run.stderr or not run.answer:
            self._report([f"{name}: ended with {run.status}: {run.stderr[-2_000:]}"])
        error = (run.answer.get("error") or {}).get("message", "")
        if error and "quarantine" not in error:
            self._report([f"{name}: red for another reason than the quarantine: {error[:500]}"])
        return run

    def _report(self, texts: Sequence[str]) -> None:
        self.played.violations += texts

    def _rows(self) -> _Found:
        names = [column.name for column in self.columns]
        reads = ", ".join(
            column.read.format(f'"{column.name}"') if "{}" in column.read else column.read for column in self.columns
        )
        with psycopg.connect(self.cart_url) as cart:
            rows = cart.execute(f"SELECT id, {reads} FROM product".encode()).fetchall()  # noqa: S608
        return {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}

    def _written(self) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.cart_url) as cart:
            return cart.execute("SELECT md5(id), xmin::text FROM product ORDER BY 1").fetchall()

    def _quarantine(self) -> _Found:
        (path,) = self.state.glob("*/quarantine.arrow")
        entries = pa.ipc.open_file(pa.OSFile(str(path))).read_all().drop_columns(["refused"]).to_pylist()
        if len({entry["source_key"] for entry in entries}) < len(entries):
            self._report(["two entries of the quarantine have one name"])
        if longest := [key for entry in entries if len(key := entry["source_key"]) > LONGEST_KEY]:
            self._report([f"a name of the quarantine has {len(longest[0])} characters"])
        return {entry["source_key"]: entry for entry in entries}


def _is_alone(one: Made) -> bool:
    return ("id", "duplicate_id") not in one.wrong and not one.may_be_refused


def _mapping(columns: Sequence[Column], folder: Path) -> dict[str, str]:
    """The variable with the mapping file of these columns. JSON is valid YAML."""
    specs: dict[str, dict[str, Any]] = {"id": {"source": "_id"}}
    for column in columns:
        origin = {"expression": column.expression} if column.expression else {"source": column.source or column.name}
        specs[column.name] = dict[str, Any](origin)
        if column.name in ("sellerId", "makers"):
            specs[column.name]["kind"] = "reference"
        if column.zone is not None:
            specs[column.name]["zone"] = column.zone
        if column.default is None:
            specs[column.name]["required"] = False
        elif column.default != "REQUIRED":
            specs[column.name]["default"] = column.default
    content = {"source": {"collection": "products"}, "target": {"table": "product"}, "columns": specs}
    path = folder / "mapping.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    return {"PRODUCT_SYNC_MAPPING": str(path)}


def _create_table(cart_url: str, columns: Sequence[Column]) -> None:
    declared = ", ".join(
        f'"{column.name}" {column.sql}{"" if column.default is None else " NOT NULL"}' for column in columns
    )
    create_citext(cart_url)
    with psycopg.connect(cart_url) as cart:
        for statement in TYPES:
            cart.execute(statement.encode())
        cart.execute(f"CREATE TABLE product (id text PRIMARY KEY, {declared})".encode())


def _leave_old_rows(cart_url: str, made: Sequence[Made], columns: Sequence[Column]) -> None:
    """Insert outdated rows. A sync must update those of good documents and keep those of bad ones."""
    short = [one.text_id for one in made if one.text_id and len(one.text_id) < 200][:: len(made) // _LEFT_FROM_BEFORE]
    needed = {"title": OLD_TITLE, "price": 1, "quantity": 1, "sellerId": "s", "mood": "sad", "stock": 1, "whole": 1}
    names = [column.name for column in columns if column.name in needed]
    listed = ", ".join(f'"{name}"' for name in names)
    with psycopg.connect(cart_url) as cart, cart.cursor() as cursor:
        statement = f"INSERT INTO product (id, {listed}) VALUES ({', '.join(['%s'] * (len(names) + 1))})"  # noqa: S608
        cursor.executemany(statement.encode(), [(text_id, *(needed[name] for name in names)) for text_id in set(short)])


def _insert(mongodb_url: str, made: Sequence[Made]) -> list[Made]:
    """Insert the documents as raw bytes. Returns those that the server accepted."""
    accepted: list[Made] = []
    with MongoClient[dict[str, Any]](mongodb_url) as client:
        database = client.get_default_database()
        for part in _parts(made):
            documents = [RawBSONDocument(one.raw) for one in part]
            answer = database.command({"insert": "products", "documents": documents, "ordered": False})
            refused = {error["index"] for error in answer.get("writeErrors", [])}
            accepted += [one for place, one in enumerate(part) if place not in refused]
    return accepted


def _delete(mongodb_url: str, made: Sequence[Made]) -> None:
    with MongoClient[dict[str, Any]](mongodb_url) as client:
        database = client.get_default_database()
        for part in _parts(made):
            filters = [RawBSONDocument(values.document([(b"_id", one.bson_id)])) for one in part]
            deletes = [{"q": chosen, "limit": 1} for chosen in filters]
            answer = database.command({"delete": "products", "deletes": deletes, "ordered": False})
            if answer["n"] != len(part):
                raise AssertionError(f"{answer['n']} of {len(part)} deleted: {answer.get('writeErrors')}")


def _parts(made: Sequence[Made]) -> Iterator[list[Made]]:
    part: list[Made] = []
    size = 0
    for one in made:
        if part and (size + len(one.raw) > _MESSAGE_BYTES or len(part) == _MESSAGE_DOCUMENTS):
            yield part
            part, size = [], 0
        part.append(one)
        size += len(one.raw)
    if part:
        yield part


def _sync(*options: str) -> _Run:
    """Run ``product-sync sync --json`` and measure the most memory that it and its children used."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        pace = ("--batch-size", "1000", "--delay-ms", "0")
        command = [sys.executable, "-m", "product_sync.cli", "sync", "--json", *pace, *options]
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr)  # noqa: S603 - a list of ours
        # The kernel's own number for the ended process is never less than the memory of this process.
        memory = MemoryWatch(process.pid)
        memory.start()
        process.wait()
        memory.finish()
        texts = []
        for stream in (stdout, stderr):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "replace"))
    lines = texts[0].splitlines()
    answer = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return _Run(process.returncode, answer, texts[1], memory.peak_bytes / 1_000_000)
