"""Reads from the catalogue which constraints of a table relate its rows to one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from psycopg import sql

# Lists by name unique indexes, except those of the key's columns $2, and exclusion constraints: the keys as
# expressions, the operator under which two keys exclude each other (equality for an index), the predicate, the columns
# that they use by name, and the generated columns among them with their expressions. The columns come from pg_depend:
# of the index, of its constraint, and of the expressions of generated columns.
INDEXES: Final = sql.SQL(
    """
    SELECT COALESCE(con.conname, class.relname)::pg_catalog.text,
           COALESCE(con.condeferrable, false),
           index.indisunique,
           COALESCE((pg_catalog.to_jsonb(index) ->> 'indnullsnotdistinct')::pg_catalog.bool, false),
           ARRAY(SELECT pg_catalog.pg_get_indexdef(index.indexrelid, place::pg_catalog.int4, false)
                 FROM pg_catalog.generate_series(1, index.indnkeyatts) AS place ORDER BY place),
           ARRAY(SELECT pg_catalog.format('OPERATOR(%I.%s)', namespace.nspname, operator.oprname)
                 FROM pg_catalog.generate_series(1, index.indnkeyatts) AS place
                 LEFT JOIN pg_catalog.pg_opclass AS opclass
                     ON con.conexclop IS NULL AND opclass.oid = index.indclass[place - 1]
                 LEFT JOIN pg_catalog.pg_amop AS amop
                     ON amop.amopfamily = opclass.opcfamily AND amop.amopstrategy = 3
                    AND amop.amoplefttype = opclass.opcintype AND amop.amoprighttype = opclass.opcintype
                 JOIN pg_catalog.pg_operator AS operator ON operator.oid = COALESCE(con.conexclop[place], amop.amopopr)
                 JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = operator.oprnamespace
                 ORDER BY place),
           pg_catalog.pg_get_expr(index.indpred, index.indrelid),
           ARRAY(SELECT attribute.attname::pg_catalog.text FROM pg_catalog.pg_attribute AS attribute
                 WHERE attribute.attrelid = index.indrelid AND attribute.attnum = ANY (base.columns) ORDER BY 1),
           ARRAY(SELECT attribute.attname::pg_catalog.text FROM pg_catalog.pg_attribute AS attribute
                 WHERE attribute.attrelid = index.indrelid AND attribute.attnum = ANY (direct.columns)
                   AND attribute.attgenerated <> '' ORDER BY attnum),
           ARRAY(SELECT pg_catalog.pg_get_expr(made.adbin, made.adrelid)
                 FROM pg_catalog.pg_attribute AS attribute
                 JOIN pg_catalog.pg_attrdef AS made
                     ON made.adrelid = attribute.attrelid AND made.adnum = attribute.attnum
                 WHERE attribute.attrelid = index.indrelid AND attribute.attnum = ANY (direct.columns)
                   AND attribute.attgenerated <> '' ORDER BY attnum),
           (SELECT pg_catalog.bool_and(pg_catalog.has_column_privilege(index.indrelid, attnum, 'SELECT'))
            FROM pg_catalog.unnest(direct.columns || base.columns) AS attnum)
    FROM pg_catalog.pg_index AS index
    JOIN pg_catalog.pg_class AS class ON class.oid = index.indexrelid
    LEFT JOIN pg_catalog.pg_constraint AS con
        ON con.conindid = index.indexrelid AND con.conrelid = index.indrelid AND con.contype IN ('u', 'x')
    CROSS JOIN LATERAL (
        SELECT pg_catalog.array_agg(DISTINCT depend.refobjsubid::pg_catalog.int2) AS columns
        FROM pg_catalog.pg_depend AS depend
        WHERE depend.refobjid = index.indrelid AND depend.refobjsubid > 0
          AND (depend.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND depend.objid = index.indexrelid
               OR depend.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND depend.objid = con.oid)
    ) AS direct
    CROSS JOIN LATERAL (
        SELECT pg_catalog.array_agg(attnum) AS columns FROM (
            SELECT attribute.attnum FROM pg_catalog.pg_attribute AS attribute
            WHERE attribute.attrelid = index.indrelid AND attribute.attnum = ANY (direct.columns)
              AND attribute.attgenerated = ''
            UNION
            SELECT depend.refobjsubid::pg_catalog.int2 FROM pg_catalog.pg_depend AS depend
            JOIN pg_catalog.pg_attrdef AS made
                ON made.adrelid = index.indrelid AND made.adnum = ANY (direct.columns)
               AND depend.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND depend.objid = made.oid
            JOIN pg_catalog.pg_attribute AS attribute
                ON attribute.attrelid = made.adrelid AND attribute.attnum = made.adnum AND attribute.attgenerated <> ''
            WHERE depend.refobjid = index.indrelid AND depend.refobjsubid > 0 AND depend.refobjsubid <> made.adnum
        ) AS columns
    ) AS base
    WHERE index.indrelid = $1::pg_catalog.oid AND index.indislive AND (index.indisunique OR con.contype = 'x')
      AND (index.indpred IS NOT NULL OR $2::pg_catalog.text[] <> ARRAY(
          SELECT attribute.attname::pg_catalog.text
          FROM pg_catalog.generate_series(0, index.indnkeyatts - 1) AS place
          LEFT JOIN pg_catalog.pg_attribute AS attribute
              ON attribute.attrelid = index.indrelid AND attribute.attnum = index.indkey[place]
          ORDER BY 1
      ))
    ORDER BY 1
    """
)

# Lists the table's foreign keys by name, with the referencing and the referenced columns, if the role may read both.
REFERENCES: Final = sql.SQL(
    """
    SELECT con.conname::pg_catalog.text, con.condeferrable, con.confrelid = con.conrelid,
           namespace.nspname::pg_catalog.text, class.relname::pg_catalog.text,
           ARRAY(SELECT attribute.attname::pg_catalog.text
                 FROM pg_catalog.unnest(con.conkey) WITH ORDINALITY AS key (attnum, place)
                 JOIN pg_catalog.pg_attribute AS attribute
                     ON attribute.attrelid = con.conrelid AND attribute.attnum = key.attnum
                 ORDER BY place),
           ARRAY(SELECT attribute.attname::pg_catalog.text
                 FROM pg_catalog.unnest(con.confkey) WITH ORDINALITY AS key (attnum, place)
                 JOIN pg_catalog.pg_attribute AS attribute
                     ON attribute.attrelid = con.confrelid AND attribute.attnum = key.attnum
                 ORDER BY place)
    FROM pg_catalog.pg_constraint AS con
    JOIN pg_catalog.pg_class AS class ON class.oid = con.confrelid
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE con.contype = 'f' AND con.conrelid = $1::pg_catalog.oid
      AND pg_catalog.has_schema_privilege(namespace.oid, 'USAGE')
      AND (SELECT pg_catalog.bool_and(pg_catalog.has_column_privilege(con.confrelid, attnum, 'SELECT'))
           FROM pg_catalog.unnest(con.confkey) AS attnum)
      AND (SELECT pg_catalog.bool_and(pg_catalog.has_column_privilege(con.conrelid, attnum, 'SELECT'))
           FROM pg_catalog.unnest(con.conkey) AS attnum)
    ORDER BY 1
    """
)


@dataclass(frozen=True)
class Index:
    """A unique index or an exclusion constraint. ``keys`` and ``predicate`` are the server's own text, in which columns
    have no table before them."""

    name: str
    deferrable: bool
    unique: bool
    nulls_equal: bool
    keys: Sequence[str]
    operators: Sequence[str]
    predicate: str | None
    columns: Sequence[str]
    generated: Sequence[str]
    expressions: Sequence[str]
    may_be_read: bool


@dataclass(frozen=True)
class Reference:
    """A foreign key of the table."""

    name: str
    deferrable: bool
    to_itself: bool
    schema: str
    table: str
    columns: Sequence[str]
    referenced: Sequence[str]
