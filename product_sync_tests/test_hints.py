"""Every hint that is a command works when it is pasted.

All of them are made by `runtime.hints`, found in the source and executed here: SQL on the server, commands through the
command line. Other hints name no command (docs/decisions/0092).
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from psycopg import sql
from pymongo import MongoClient

import product_sync
from product_sync import api
from product_sync.results import Report
from product_sync.runtime import hints
from product_sync_tests.docs.session import Session
from product_sync_tests.market import Market, product, products
from product_sync_tests.sources.private_mongod import private_mongod
from product_sync_tests.targets.postgres_tables import role

pytestmark = pytest.mark.usefixtures("in_memory")

PACKAGE = Path(product_sync.__file__).parent
MAKERS = ("sql", "shell", "mongosh")
#: Makes the commands that name a sync: `hints.SyncCommands.product_sync`.
OF_A_SYNC = "product_sync"
#: Where the statements and command lines of the package itself are, which no person is told to type.
NOT_FOR_PEOPLE = {
    "embedded/catalogue.py",
    "embedded/demo.py",
    "embedded/placement.py",
    "embedded/postgres.py",
    "embedded/sellers.py",
    "runtime/hints.py",
}
#: Makes its commands beside real servers and a real UI; `test_dev.py` types them.
ELSEWHERE = {"embedded/dev.py"}
LOOKS_LIKE_A_COMMAND = re.compile(
    r"product-sync [a-z]+|(?:^|\s)--[a-z]|\b(?:GRANT|REVOKE|ALTER|CREATE|DROP) [A-Z]{2}|`(?:make|chmod|kill|ldd|sudo) "
    r"|db\.\w+\("
)

Place = tuple[str, int]
#: What was pasted into the shell of MongoDB.
PASTED: list[str] = []


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())


def made() -> dict[Place, ast.Call]:
    """Every command that the package makes, by file and line."""
    return {
        (name, node.lineno): node
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and is_maker(node.func) and name not in ELSEWHERE
    }


def is_maker(function: ast.expr) -> bool:
    if not isinstance(function, ast.Attribute):
        return False
    is_of_hints = isinstance(function.value, ast.Name) and function.value.id == "hints" and function.attr in MAKERS
    return is_of_hints or function.attr == OF_A_SYNC


def constant(call: ast.Call) -> list[str] | None:
    """The words of a command that is always the same."""
    if all(isinstance(argument, ast.Constant) for argument in call.args):
        words = [str(ast.literal_eval(argument)) for argument in call.args]
        return ["product-sync", *words] if ast.unparse(call.func).endswith(f".{OF_A_SYNC}") else words
    return None


@pytest.fixture
def typed(market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setenv("SYNC_BATCH_DELAY_MS", "0")
    market.env["SYNC_BATCH_DELAY_MS"] = "0"
    return Session(market, tmp_path, monkeypatch)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> dict[Place, set[str]]:
    """The commands that were made while the test ran, by where."""
    found: dict[Place, set[str]] = {place: set() for place in made()}

    def recording(maker: Callable[..., str]) -> Callable[..., str]:
        def record(*words: Any) -> str:
            frame = sys._getframe(1)
            name = Path(frame.f_code.co_filename).relative_to(PACKAGE).as_posix()
            if name == "runtime/hints.py":
                return maker(*words)
            first = min(
                (line for file, line in made_here if file == name and line <= frame.f_lineno <= line + 6),
                key=lambda line: frame.f_lineno - line,
            )
            command = maker(*words)
            found[name, first].add(command)
            return command

        return record

    made_here = list(found)
    for name in MAKERS:
        monkeypatch.setattr(hints, name, recording(getattr(hints, name)))
    monkeypatch.setattr(hints.SyncCommands, OF_A_SYNC, recording(hints.SyncCommands.product_sync))
    return found


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was typed into a shell or executed on a server while the test ran."""
    found: list[str] = []
    for of, name in ((Session, "type"), (Market, "sql")):
        method = getattr(of, name)

        def noting(self: Any, line: str, *more: object, method: Callable[..., Any] = method) -> Any:
            found.append(line)
            return method(self, line, *more)

        monkeypatch.setattr(of, name, noting)
    return found


def hint_of(report: Report) -> str:
    assert report.error is not None
    return report.error.hint


def quoted(text: str) -> str:
    [found] = re.findall(r"`(product-sync [^`]*)`", text)
    return str(found)


def test_a_command_that_is_always_the_same_works(typed: Session) -> None:
    typed.market.stock(products(2))
    always = {tuple(words) for words in map(constant, made().values()) if words}
    assert len(always) >= 3
    for each in sorted(always):
        typed.type(hints.shell(*each))


def test_a_command_that_depends_on_what_was_found_works(
    typed: Session, commands: dict[Place, set[str]], done: list[str]
) -> None:
    for scenario in SCENARIOS:
        scenario(typed)
    left_out = {
        place: commands[place]
        for place, call in made().items()
        if constant(call) is None and not any(command in line for command in commands[place] for line in done + PASTED)
    }
    assert not left_out, "a hint whose command no scenario executes"


def a_primary_key(typed: Session) -> None:
    market = typed.market
    market.stock([{"_id": "a", "Name": "A"}], "odd")
    market.sql('CREATE TABLE "Odd ""Table" ("Id No" text, name text)')
    mapping = typed.folder / "odd.yaml"
    columns = {"Id No": {"source": "_id"}, "name": {"source": "Name"}}
    mapping.write_text(
        json.dumps({"source": {"collection": "odd"}, "target": {"table": 'Odd "Table'}, "columns": columns})
    )
    market.sql(hint_of(api.sync(mapping=str(mapping))))
    assert api.sync(mapping=str(mapping)).raise_for_error().inserted == 1
    for other_key in ("ADD PRIMARY KEY (name)", 'ADD PRIMARY KEY (name), ALTER "Id No" DROP NOT NULL'):
        market.sql(f'ALTER TABLE "Odd ""Table" DROP CONSTRAINT "Odd ""Table_pkey", {other_key}')
        hint = hint_of(api.sync(mapping=str(mapping)))
        assert "PRIMARY KEY" not in hint, "there is one already"
        market.sql(hint)
        assert api.sync(mapping=str(mapping)).raise_for_error().inserted == 0
        market.sql('ALTER TABLE "Odd ""Table" DROP CONSTRAINT "Odd ""Table_Id No_key"')


def a_sequence(typed: Session) -> None:
    market, mapping = typed.market, typed.folder / "numbered.yaml"
    market.stock([{"_id": "a", "Name": "A"}], "numbered")
    market.sql('CREATE TABLE "num""bered" ("my no" serial PRIMARY KEY, ref text NOT NULL UNIQUE, name text)')
    target = {"source": {"collection": "numbered"}, "target": {"table": 'num"bered'}}
    mapping.write_text(json.dumps({**target, "columns": {"ref": {"source": "_id"}, "name": {"source": "Name"}}}))
    with role(market.cart_url, 'GRANT SELECT, INSERT, UPDATE ON "num""bered" TO {}') as clerk:
        typed.export("CART_DB_URL", clerk.url)
        market.sql(hint_of(api.sync(mapping=str(mapping))))
        assert api.sync(mapping=str(mapping)).raise_for_error().inserted == 1
        typed.export("CART_DB_URL", market.cart_url)


def a_dry_run_and_its_plan(typed: Session) -> None:
    market = typed.market
    market.stock([*products(3), product(5, price="a lot")])
    market.copy([product(8)])
    printed = typed.type("product-sync sync --dry-run --extra delete --max-delete-share 1 --quarantine-budget 1")
    [command] = re.findall(r"^ *(product-sync sync .*--plan .*)$", printed, re.MULTILINE)
    without_extra = api.sync(plan=command.split()[-1])
    typed.type(hint_of(without_extra) + " --max-delete-share 1 --quarantine-budget 1")
    assert market.rows().keys() == {"p0000", "p0001", "p0002"}
    market.copy([product(8)])
    printed = typed.type("product-sync sync --dry-run --extra delete --max-delete-share 1 --quarantine-budget 1")
    [command] = re.findall(r"^ *(product-sync sync .*--plan .*)$", printed, re.MULTILINE)
    printed = typed.type(command)
    assert market.rows().keys() == {"p0000", "p0001", "p0002"}
    [command, *_] = re.findall(r"^ *(product-sync quarantine.*)$", printed, re.MULTILINE)
    typed.type(command)


def a_product_that_differs(typed: Session) -> None:
    from product_sync.terminal.text import show_command

    typed.type(show_command("p0000"))


def a_source_that_shrank(typed: Session) -> None:
    typed.market.unstock({"_id": {"$in": ["p0002", "p0005"]}})
    refused = api.sync()
    assert refused.failure is not None
    typed.type(quoted(refused.failure.message))


def a_quarantine_over_budget(typed: Session) -> None:
    typed.market.stock([product(6, price="a lot")])
    hint = hint_of(api.sync(quarantine_budget=0.0))
    assert typed.type(hint[hint.index("product-sync quarantine") :])


def a_mistyped_option(typed: Session) -> None:
    with pytest.raises(AssertionError, match="See `product-sync sync --help`") as refused:
        typed.type("product-sync sync --no-such-option")
    assert "--dry-run" in typed.type(f"env {quoted(str(refused.value))}"), "in a process: it ends without SystemExit"


def a_role_without_rights(typed: Session) -> None:
    market = typed.market
    market.sql("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    with role(market.cart_url) as clerk:
        odd = f'{clerk.name}-"Cart"'
        market.sql(sql.SQL("ALTER ROLE {} RENAME TO {}").format(*map(sql.Identifier, (clerk.name, odd))).as_string())
        market.sql(sql.SQL("ALTER ROLE {} PASSWORD 'x'").format(sql.Identifier(odd)).as_string())
        try:
            url = f"postgresql://{clerk.name}-%22Cart%22:x@{urlsplit(market.cart_url).netloc.rpartition('@')[2]}"
            typed.export("CART_DB_URL", url + urlsplit(market.cart_url).path)
            market.sql(hint_of(api.doctor()))
            assert api.doctor().failure is None
            for of in ("", f" IN DATABASE {urlsplit(market.cart_url).path[1:]}"):
                market.sql(
                    f'ALTER ROLE "{odd.replace(chr(34), chr(34) * 2)}"{of} SET default_transaction_read_only = on'
                )
                market.sql(hint_of(api.sync()))
                assert api.doctor().failure is None
        finally:
            typed.export("CART_DB_URL", market.cart_url)
            market.sql(
                sql.SQL("ALTER ROLE {} RENAME TO {}").format(*map(sql.Identifier, (odd, clerk.name))).as_string()
            )
    database = urlsplit(market.cart_url).path[1:]
    market.sql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    market.sql(hint_of(api.sync()))
    assert api.doctor().failure is None


def a_mongodb_user_without_rights(typed: Session) -> None:
    with private_mongod("--auth") as server:
        with MongoClient[dict[str, Any]]("127.0.0.1", server.port) as client:
            client.admin.command("createUser", "root", pwd="root-of-the-test", roles=["root"])
        with MongoClient[dict[str, Any]](
            "127.0.0.1", server.port, username="root", password="root-of-the-test"
        ) as root:
            root.shop.products.insert_many(products(1))
            root.admin.command("createUser", 'the "reader"', pwd="secret", roles=[])
            typed.export("PRODUCT_SERVICE_MONGODB_URL", server.url(options="?authSource=admin"))
            typed.export("MONGO_USER", 'the "reader"')
            typed.export("MONGO_PASSWORD", "secret")
            pasted = hint_of(api.doctor())
            call = re.fullmatch(r"db\.getSiblingDB\((.*?)\)\.grantRolesToUser\((.*)\)", pasted)
            assert call, pasted
            user, roles = json.loads(f"[{call[2]}]")
            root[json.loads(call[1])].command("grantRolesToUser", user, roles=roles)
            PASTED.append(pasted)
            assert api.doctor().mongodb.error is None


SCENARIOS: list[Callable[[Session], None]] = [
    a_primary_key,
    a_sequence,
    a_dry_run_and_its_plan,
    a_product_that_differs,
    a_source_that_shrank,
    a_quarantine_over_budget,
    a_mistyped_option,
    a_role_without_rights,
    a_mongodb_user_without_rights,
]


def test_no_other_text_for_people_looks_like_a_command() -> None:
    found = [
        f"{name}:{text.lineno}: {text.value!r}"
        for name, tree in modules()
        if name not in NOT_FOR_PEOPLE
        for text in said(tree)
        if LOOKS_LIKE_A_COMMAND.search(str(text.value))
    ]
    assert not found


def said(tree: ast.Module) -> Iterator[ast.Constant]:
    """The texts of a module, without its documentation, the help of its options, and what `runtime.hints` makes."""
    hidden: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            hidden.add(id(node.value))
        if isinstance(node, ast.Call) and (is_maker(node.func) or ast.unparse(node.func) in OPTIONS):
            hidden |= {id(part) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in hidden
            and " " in node.value
        ):
            yield node


#: What takes the names and the help of options.
OPTIONS = {
    "click.option",
    "click.UsageError",
    "click.version_option",
    "Field",
    "connection.execute",
    "database.execute",
    "db.execute",
}
