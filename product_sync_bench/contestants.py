"""The programs that are measured: product_sync, the tools that do the same job, and the floors.

Each tool has the options with which it is fastest and does the least harm. ``setup`` prepares the target for it.
Telemetry is off.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

_PROGRAMS: Final = Path(__file__).parent
PRODUCT_SYNC: Final = "product_sync"
DAGSTER_JOB: Final = "dagster job execute"
#: What is ours, the command and Dagster's own way to start the same job.
OURS: Final = frozenset({PRODUCT_SYNC, DAGSTER_JOB})
PLAIN_SCRIPT: Final = "pymongo + psycopg"
INGESTR_CHANGES: Final = "ingestr, change stream"
EMPTY_JOB: Final = "dagster job execute, four empty assets"


class MissingContestantError(Exception):
    """A program of the extra ``bench`` is not installed."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contestant runs. ``folder`` is empty and its own; ``home`` is Dagster's and stays from run to run."""

    source_url: str
    target_url: str
    folder: Path
    home: Path
    rows_file: Path

    def environment(self) -> dict[str, str]:
        """Our variables without those that change a run, and with those that name the databases for each contestant."""
        unwanted = ("SYNC_", "MONGO_", "PYTHONDONTWRITEBYTECODE")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
        return inherited | {
            "HOME": str(self.folder),
            "PYTHONWARNINGS": "ignore",
            "BENCH_SOURCE": self.source_url,
            "BENCH_TARGET": self.target_url,
            "PRODUCT_SERVICE_MONGODB_URL": self.source_url,
            "CART_DB_URL": self.target_url,
            "PRODUCT_SYNC_STATE": str(self.home / "state"),
            "DAGSTER_HOME": str(self.home),
            # ingestr takes the database from the table's name.
            "INGESTR_SOURCE_URI": _without_database(self.source_url),
            "INGESTR_DESTINATION_URI": f"{self.target_url}?sslmode=disable",
            "INGESTR_DISABLE_TELEMETRY": "true",
            "SLING_TARGET": f"{self.target_url}?sslmode=disable",
            "SLING_DISABLE_TELEMETRY": "true",
            "SLING_HOME_DIR": str(self.folder / "sling"),
        }

    @property
    def source_database(self) -> str:
        return self.source_url.rpartition("/")[2].partition("?")[0]


@dataclass(frozen=True, slots=True)
class Contestant:
    """``keeps_table``: it merges rows and does not replace the table. ``setup`` is SQL that runs on the target.
    ``before`` and ``after`` are SQL too, for right before and after the run; what they do is no alteration."""

    name: str
    how: str
    arguments: tuple[str, ...]
    keeps_table: bool = True
    setup: str = ""
    before: str = ""
    after: str = ""

    def command(self, place: Place) -> list[str]:
        values = {
            "{folder}": str(place.folder),
            "{rows}": str(place.rows_file),
            "{database}": place.source_database,
            "{cdc}": place.source_url.replace("://", "+cdc://", 1),
        }
        return [_filled(argument, values) for argument in self.arguments]


def product_sync(
    batch_size: int | None = 20_000, delay_ms: int | None = 0, *, mapping: str | None = None, changes: bool = False
) -> Contestant:
    """Our command. ``None`` keeps the default of an option. ``mapping`` is a file of this folder. With ``changes`` it
    compares only what the source has changed."""
    # A sync that changes more than half of the target needs this option.
    options: tuple[str, ...] = ("--accept-changes",)
    if batch_size is not None:
        options += ("--batch-size", str(batch_size))
    if delay_ms is not None:
        options += ("--delay-ms", str(delay_ms))
    if changes:
        options += ("--changes",)
    if mapping is not None:
        options += ("--mapping", str(_PROGRAMS / mapping))
    arguments = (script("product-sync"), "sync", *options, "--json")
    how = " ".join(["`product-sync sync", *options, "--json`"]).replace(f"{_PROGRAMS}{os.sep}", "")
    return Contestant(PRODUCT_SYNC, how, arguments)


def dagster_job() -> Contestant:
    """The same sync as `product_sync`, started by Dagster's own command."""
    arguments = (
        *(script("dagster"), "job", "execute", "-m", "product_sync.definitions", "-j", "product_sync"),
        *("-c", str(_PROGRAMS / "job.yaml")),
    )
    return Contestant(DAGSTER_JOB, "`dagster job execute -m product_sync.definitions`, the same options", arguments)


def peers() -> list[Contestant]:
    """The other tools. Raises `MissingContestantError`."""
    return [
        _ingestr("merge", keeps_table=True),
        _ingestr("replace", keeps_table=False),
        Contestant(
            "sling, upsert",
            "incremental mode with a primary key, into a view that calls the id `_id`: this version cannot rename it",
            (
                _sling(),
                "run",
                *("--src-conn", "BENCH_SOURCE", "--src-stream", "{database}.products"),
                *("--src-options", '{"flatten": true}'),
                *("--tgt-conn", "SLING_TARGET", "--tgt-object", "public.product_by_sling"),
                *("--tgt-options", '{"column_casing": "source", "add_new_columns": false}'),
                *("--mode", "incremental", "--primary-key", "_id"),
                *("--select", "_id,title,price,image,sellerId,quantity"),
            ),
            setup="""
            CREATE VIEW product_by_sling AS
            SELECT id AS _id, title, price, image, "sellerId", quantity FROM product
            """,
        ),
        Contestant(
            "dlt, upsert",
            "PyMongoArrow tables, Parquet files through ADBC, merge strategy `upsert`",
            (sys.executable, str(_PROGRAMS / "peers" / "dlt_upsert.py"), "{folder}", "parquet"),
        ),
        Contestant(
            PLAIN_SCRIPT,
            "plain script: COPY into a temporary table, ON CONFLICT … WHERE … IS DISTINCT FROM",
            (sys.executable, str(_PROGRAMS / "peers" / "plain_copy.py")),
        ),
    ]


def ingestr_changes() -> Contestant:
    """Another tool that follows the change stream. It keeps its position in columns that it adds to the table."""
    return Contestant(
        INGESTR_CHANGES,
        "source `mongodb+cdc`, strategy `merge`; the table's `id` is called `_id` meanwhile, because it takes no other"
        " key. The first run merges everything. Before each later run one row is changed in the target alone, as if an"
        " event had been lost before the position: it stays wrong until everything is merged again. A pass of"
        " product_sync does not read such a row either; its full sync repairs it",
        (
            *(script("ingestr"), "ingest", "--source-uri", "{cdc}", "--source-table", "{database}.products"),
            *("--dest-table", "public.product", "--incremental-strategy", "merge", "--primary-key", "_id"),
            *("--columns", "_id:string,title:string,price:int,image:string,sellerId:string,quantity:int"),
            *("--no-inference", "--no-load-timestamp", "--schema-naming", "direct", "--progress", "log", "--yes"),
        ),
        before="ALTER TABLE product RENAME COLUMN id TO _id",
        after="ALTER TABLE product RENAME COLUMN _id TO id",
    )


def drain() -> Contestant:
    return Contestant("MongoDB: raw drain", "six fields, raw BSON, batches of 5,000", _floor("drain.py"))


def copy_out() -> Contestant:
    return Contestant("PostgreSQL: raw COPY out", "binary", _floor("copy_out.py"))


def copy_in() -> Contestant:
    return Contestant("PostgreSQL: raw COPY in", "binary, into the keyed table", (*_floor("copy_in.py"), "{rows}"))


def empty_job() -> Contestant:
    job = str(_PROGRAMS / "floors" / "empty_job.py")
    return Contestant(
        EMPTY_JOB, "in process", (script("dagster"), "job", "execute", "--python-file", job, "--job", "empty")
    )


def names() -> frozenset[str]:
    """All names. Raises `MissingContestantError`."""
    ours, floors = (product_sync(), dagster_job()), (drain(), copy_out(), copy_in(), empty_job())
    everyone = (*ours, *peers(), ingestr_changes(), *floors)
    return frozenset(one.name for one in everyone)


def versions() -> dict[str, str]:
    """The versions of everything that takes part, by distribution."""
    names = (
        "product_sync", "dagster", "pyarrow", "pymongo", "pymongoarrow", "psycopg", "adbc-driver-postgresql",
        "ingestr", "sling-linux-amd64", "dlt",
    )  # fmt: skip
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _ingestr(strategy: str, *, keeps_table: bool) -> Contestant:
    return Contestant(
        f"ingestr, {strategy}",
        f"strategy `{strategy}`, six fields projected by the source, column types given"
        + ("" if keeps_table else ", the carts' table dropped before: it cannot replace a table that others reference"),
        (
            script("ingestr"),
            "ingest",
            # Tried: faster than reading whole documents, and than $toString of the ids in the source.
            *(
                "--source-table",
                '{database}.products:[{"$project":{"title":1,"price":1,"image":1,"sellerId":1,"quantity":1}}]',
            ),
            *("--dest-table", "public.product"),
            *("--incremental-strategy", strategy, "--primary-key", "id"),
            *("--columns", "id:string:_id,title:string,price:int,image:string,sellerId:string,quantity:int"),
            *("--no-inference", "--no-load-timestamp", "--schema-naming", "direct", "--progress", "log", "--yes"),
        ),
        keeps_table=keeps_table,
        setup="" if keeps_table else "DROP TABLE cart_item",
    )


def _floor(program: str) -> tuple[str, ...]:
    return (sys.executable, str(_PROGRAMS / "floors" / program))


def script(name: str) -> str:
    """A console script of the environment that we run in."""
    beside = Path(sys.executable).parent
    if (path := shutil.which(name, path=str(beside))) is None:
        raise MissingContestantError(f"{name} is not installed in {beside}: install product_sync[bench].")
    return path


def _sling() -> str:
    """The program itself: its Python package adds nothing that is needed here."""
    try:
        files = metadata.files("sling-linux-amd64") or []
    except metadata.PackageNotFoundError as error:
        raise MissingContestantError("sling-linux-amd64 is not installed: install product_sync[bench].") from error
    return next(str(file.locate()) for file in files if file.name == "sling-linux-amd64")


def _filled(argument: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        argument = argument.replace(name, value)
    return argument


def _without_database(mongodb_url: str) -> str:
    address, _, rest = mongodb_url.rpartition("/")
    _, mark, options = rest.partition("?")
    return f"{address}/{mark}{options}"
