"""The extension citext, also on the embedded server, which has no contrib modules: there it is made of SQL functions.

The type, its input and output, its casts and its operator classes are those of contrib/citext; only the functions that
compare are in SQL instead of C.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

_IO: Final = (
    ("citextin", "cstring", "citext", "textin"),
    ("citextout", "citext", "cstring", "textout"),
    ("citextrecv", "internal", "citext", "textrecv"),
    ("citextsend", "citext", "bytea", "textsend"),
)
_OPERATORS: Final = (("<", "lt", 1), ("<=", "le", 2), ("=", "eq", 3), (">=", "ge", 4), (">", "gt", 5))


def create_citext(url: str, schema: str = "public") -> None:
    """`CREATE EXTENSION citext` as superuser: the server's own if it has it."""
    with psycopg.connect(url, autocommit=True) as connection, tempfile.TemporaryDirectory() as folder:
        create = sql.SQL("CREATE EXTENSION citext SCHEMA {}").format(sql.Identifier(schema))
        if not connection.execute("SELECT FROM pg_available_extensions WHERE name = 'citext'").rowcount:
            # The server may run as another user.
            Path(folder).chmod(0o755)
            _write(Path(folder) / "extension")
            connection.execute(sql.SQL("SET extension_control_path = {}").format(f"{folder}:$system"))
        connection.execute(create)


def _write(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    (folder / "citext.control").write_text("default_version = '1'\nrelocatable = true\n")
    (folder / "citext--1.sql").write_text("\n".join(_statements()))


def _statements() -> list[str]:
    made = "LANGUAGE internal IMMUTABLE STRICT"
    functions = [
        f"CREATE FUNCTION {name}({takes}) RETURNS {gives} AS '{internal}' {made};"
        for name, takes, gives, internal in _IO
    ]
    compared = [
        statement
        for operator, name, _ in _OPERATORS
        for statement in (
            f"CREATE FUNCTION citext_{name}(citext, citext) RETURNS bool LANGUAGE sql IMMUTABLE STRICT"
            f" AS 'SELECT lower($1::text) {operator} lower($2::text)';",
            f"CREATE OPERATOR {operator} (FUNCTION = citext_{name}, LEFTARG = citext, RIGHTARG = citext);",
        )
    ]
    members = ", ".join(f"OPERATOR {number} {operator}" for operator, _, number in _OPERATORS)
    return [
        "CREATE TYPE citext;",
        *functions,
        "CREATE TYPE citext (INPUT = citextin, OUTPUT = citextout, RECEIVE = citextrecv, SEND = citextsend,"
        " INTERNALLENGTH = VARIABLE, STORAGE = extended, CATEGORY = 'S', COLLATABLE = true);",
        "CREATE CAST (citext AS text) WITHOUT FUNCTION AS IMPLICIT;",
        "CREATE CAST (citext AS varchar) WITHOUT FUNCTION AS IMPLICIT;",
        "CREATE CAST (text AS citext) WITHOUT FUNCTION AS ASSIGNMENT;",
        "CREATE CAST (varchar AS citext) WITHOUT FUNCTION AS ASSIGNMENT;",
        *compared,
        "CREATE FUNCTION citext_cmp(citext, citext) RETURNS int4 LANGUAGE sql IMMUTABLE STRICT"
        " AS 'SELECT bttextcmp(lower($1::text), lower($2::text))';",
        f"CREATE OPERATOR CLASS citext_ops DEFAULT FOR TYPE citext USING btree AS {members},"
        " FUNCTION 1 citext_cmp(citext, citext);",
    ]
