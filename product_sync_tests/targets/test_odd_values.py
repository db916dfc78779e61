"""A row can be repaired and deleted whatever another client has written into it."""

from __future__ import annotations

from urllib.parse import urlsplit

import pyarrow as pa
from psycopg import sql

from product_sync.schema.addresses import TargetAddress
from product_sync.schema.ports import WriteBatch, Written
from product_sync.targets.postgres.reader import PostgresReader
from product_sync.targets.postgres.writer import PostgresWriter
from product_sync_tests.citext import create_citext
from product_sync_tests.targets.postgres_tables import execute, row_schema_of

#: Values that one side of the wire, or the canonical form, writes otherwise than the other.
ODD = {
    "timestamptz": (
        "294276-12-31 23:59:59.999999Z", "294247-01-10 04:00:54.775807Z", "294247-01-10 04:00:54.775806Z",
        "294247-01-10 04:00:54.775805Z", "infinity", "-infinity", "4714-11-24 00:00:00Z BC", "0001-01-01 00:00:00Z BC",
        "2024-01-02 03:04:05.000001+05:45",
    ),
    "timestamptz(3)": ("294276-12-31 23:59:59.999Z", "2024-01-02 03:04:05.0005Z"),
    "numeric": ("1.50000", "-0.0", "0e-20", "1e400", "NaN", "Infinity", "-Infinity", "0." + "0" * 300 + "1"),
    "numeric(20,4)": ("1.5", "-0.0", "NaN"),
    "real": ("-0", "NaN", "Infinity", "-Infinity", "0.1", "1e-45", "3.4028235e38", "16777217"),
    "double precision": ("-0", "NaN", "Infinity", "-Infinity", "0.1", "5e-324", "1.7976931348623157e308"),
    "text": ("", " ends in blanks  ", "\u0065\u0301", "\u00e9", "\r\n\t", "\U0001f600"),
    "varchar(20)": ("", "ends in blanks  ", "\ufeff"),
    "char(5)": ("", "a", "ab   ", "  \u00e9 "),
    "date": ("infinity", "-infinity", "4714-11-24 BC", "0001-01-01 BC", "10000-01-01", "5874897-12-31"),
    "timestamp": (
        "294276-12-31 23:59:59.999999", "294247-01-10 04:00:54.775807", "294247-01-10 04:00:54.775806", "infinity",
        "-infinity", "4714-11-24 00:00:00 BC", "2024-01-02 03:04:05.000001",
    ),
    "timestamp(3)": ("294276-12-31 23:59:59.999", "2024-01-02 03:04:05.0005"),
    'elsewhere."Mood"': ("sad", "Sad", " ok ", "it's \u00fc"),
    "elsewhere.nested": ("a", "A ", "abc"),
    "elsewhere.amount": ("1.50", "NaN"),
    "elsewhere.rank": ("1", "-1"),
    "elsewhere.feeling": ("Sad", " ok "),
    "citext": ("ring", "RING", "Ring ", "\u00df"),
    "uuid": ("A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "{a0eebc999c0b4ef8bb6d6bb9bd380a11}"),
    "boolean": ("t", "off"),
    "jsonb": (
        '{"b": 1.00, "a": [1.50, 0.0, -0.0, 1e400, 1e-9], "á": "x 1.00, y", "zz": null}', "null", "[]", "{}", '"1.00"',
        '"not jsonb: {}"', '{"": {"": [[], {}]}}', "1.10", '"\\u0001\\\\u0000"', "1", "[1]",
    ),
    "json": (
        '{"b":1.00,"a":[1.50,-0.0,1e400],"b":2}', " null ", '"\\u00e4\\ud83d\\ude00"', '"\\\\u0000"', '"size e100"',
        "1E2", '{"a": "\\u0000"}', '["\\ud83d"]', "1e200000", "1e-200000", "1e99999999999999999999", '"not jsonb: {}"',
    ),
    "text[]": (
        "{}", '{"","NULL",null,Null,"a b","a,b","{x}","a\\"b\\\\c", ä}', "[0:1]={a,b}", "{{a,b},{c,NULL}}",
        "[2:3][-1:0]={{a,b},{c,d}}",
    ),
    "varchar(5)[]": ('{"a  ",b}',), "integer[]": ("{1,NULL,-3}", "{{1},{2}}"), "bigint[]": ("{9223372036854775807}",),
    "numeric[]": ("{1.00,2.50,0.0,-0.00,NULL,NaN,Infinity,100,0.050,1e30}", "[0:1]={1.10,2.0}", "{{1.0},{20}}"),
    "numeric(10,2)[]": ("{1,2.5}",), "boolean[]": ("{t,f,NULL}",),
    "uuid[]": ("{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}",),
    "real[]": ("{0.1,-0,NaN,Infinity,-Infinity,1e-45,3.4028235e38,16777216,NULL}", "{{1},{2}}"),
    "double precision[]": ("{0.1,-0,NaN,-Infinity,5e-324,1e23,1e15,123456789012345680,NULL}", "[5:5]={1}"),
    "timestamptz[]": (
        "{2024-01-02 03:04:05.000001+05:45,NULL,infinity,-infinity,294276-12-31 23:59:59.999999Z,0001-01-01Z}",
        '{"4714-11-24 00:00:00Z BC","0001-12-31 23:59:59.5Z BC",10000-01-01Z,1970-01-01Z}', "[0:0]={2024-01-01Z}", "{}",
    ),
    "timestamp(3)[]": ("{294276-12-31 23:59:59.999,infinity,NULL,0044-03-15 12:00 BC,2024-01-02 03:04:05.6}",),
    "date[]": ("{infinity,-infinity,4714-11-24 BC,0001-01-01 BC,10000-01-01,5874897-12-31,NULL}", "{{2024-02-29}}"),
    "char(5)[]": ('{ab,"ab  ","",NULL,"a b"}', "[0:0]={a}"), "citext[]": ("{Ring,RING,NULL}", "{{a},{A}}"),
    'elsewhere."Mood"[]': ('{Sad,sad," ok ","it\'s \u00fc",NULL}', "[0:0]={sad}"), "elsewhere.short_list": ("{a,B}",),
    "bigint": ("-9223372036854775808", "9223372036854775807"),
}  # fmt: skip


#: Settings that change how the server writes and reads texts of values.
UNUSUAL = {
    "datestyle": "SQL, DMY",
    "timezone": "America/New_York",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "intervalstyle": "sql_standard",
}


def test_a_row_is_recognised_whatever_another_client_has_written_into_it(cart_url: str) -> None:
    create_citext(cart_url)
    database = sql.Identifier(urlsplit(cart_url).path[1:])
    execute(
        cart_url,
        *(
            sql.SQL("ALTER DATABASE {} SET {} = {}").format(database, sql.Identifier(name), sql.Literal(value))
            for name, value in UNUSUAL.items()
        ),
        "CREATE SCHEMA elsewhere",
        """CREATE TYPE elsewhere."Mood" AS ENUM ('Sad', 'sad', ' ok ', 'it''s \u00fc')""",
        "CREATE DOMAIN elsewhere.short AS varchar(4) CHECK (VALUE <> 'no')",
        "CREATE DOMAIN elsewhere.nested AS elsewhere.short",
        "CREATE DOMAIN elsewhere.amount AS numeric(9,2)",
        "CREATE DOMAIN elsewhere.rank AS int",
        "CREATE DOMAIN elsewhere.short_list AS text[] CHECK (cardinality(VALUE) < 9)",
        'CREATE DOMAIN elsewhere.feeling AS elsewhere."Mood"',
    )
    for number, (declared, literals) in enumerate(ODD.items()):
        table = sql.Identifier(f"odd{number}")
        rows = sql.SQL(", ").join(
            sql.SQL("({}, {}, 0)").format(sql.Literal(str(place)), sql.Literal(literal))
            for place, literal in enumerate(literals)
        )
        execute(
            cart_url,
            sql.SQL("CREATE TABLE {} (id text PRIMARY KEY, v {}, n int)").format(table, sql.SQL(declared)),
            sql.SQL("INSERT INTO {} VALUES {}").format(table, rows),
        )
        row_schema = row_schema_of(cart_url, f"odd{number}")
        nothing = row_schema.target_schema.empty_table()
        ids = frozenset(str(place) for place in range(len(literals)))
        reader = PostgresReader(TargetAddress(cart_url), row_schema)
        with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
            old = pa.Table.from_batches(reader.snapshot(), schema=row_schema.target_schema)
            new = old.set_column(2, row_schema.target_schema.field("n"), pa.array([1] * old.num_rows, pa.int32()))
            assert writer.write(WriteBatch(nothing, new, old, nothing)) == Written(updated=ids), declared
            again = writer.fetch(sorted(ids))
            assert writer.write(WriteBatch(nothing, nothing, nothing, again)) == Written(deleted=ids), declared


def test_a_far_moment_is_not_taken_for_another_one(cart_url: str) -> None:
    execute(
        cart_url,
        "CREATE TABLE far (id text PRIMARY KEY, v timestamptz)",
        "INSERT INTO far VALUES ('a', '294276-12-31Z'), ('b', '294276-12-31Z'), ('c', 'infinity')",
    )
    row_schema = row_schema_of(cart_url, "far")
    nothing = row_schema.target_schema.empty_table()
    with PostgresWriter(TargetAddress(cart_url), row_schema, run_id="test") as writer:
        seen = writer.fetch(["a", "b", "c"])
        execute(
            cart_url,
            "UPDATE far SET v = 'infinity' WHERE id = 'a'",
            "UPDATE far SET v = '2024-01-02Z' WHERE id = 'b'",
            "UPDATE far SET v = '294276-12-31Z' WHERE id = 'c'",
        )
        assert writer.write(WriteBatch(nothing, nothing, nothing, seen)) == Written()
