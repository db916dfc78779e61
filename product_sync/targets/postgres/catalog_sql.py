"""Questions to the server's catalogue about the target table. `session_sql` says how the statements are written."""

from __future__ import annotations

from typing import Final

from psycopg import sql

# Makes the server show type names without quotes, whatever the role has set.
PLAIN_NAMES: Final = sql.SQL("SET quote_all_identifiers = off")

# Finds a table by its exact name: OID, kind, and whether it has a primary key.
RELATION: Final = sql.SQL(
    """
    SELECT class.oid, class.relkind,
           EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE conrelid = class.oid AND contype = 'p')
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE namespace.nspname = $1::pg_catalog.text AND class.relname = $2::pg_catalog.text
    """
)

# Lists the keys: the columns, all NOT NULL, of each unique index that INSERT … ON CONFLICT can use. The index is not
# partial, not on an expression and not deferrable, and no two texts that differ are equal in it.
KEYS: Final = sql.SQL(
    """
    SELECT DISTINCT pg_catalog.array_agg(attribute.attname::pg_catalog.text ORDER BY place)
    FROM pg_catalog.pg_index AS index
    CROSS JOIN LATERAL pg_catalog.generate_series(0, index.indnkeyatts - 1) AS place
    LEFT JOIN pg_catalog.pg_attribute AS attribute
        ON attribute.attrelid = index.indrelid AND attribute.attnum = index.indkey[place] AND attribute.attnotnull
    LEFT JOIN pg_catalog.pg_opclass AS opclass
        ON opclass.oid = index.indclass[place] AND opclass.opcnamespace = 'pg_catalog'::pg_catalog.regnamespace
    LEFT JOIN pg_catalog.pg_collation AS collation_ ON collation_.oid = index.indcollation[place]
    WHERE index.indrelid = $1::pg_catalog.oid
      AND index.indisunique AND index.indimmediate AND index.indisvalid AND index.indpred IS NULL
    GROUP BY index.indexrelid
    HAVING pg_catalog.bool_and(attribute.attname IS NOT NULL AND opclass.oid IS NOT NULL
                               AND COALESCE(collation_.collisdeterministic, true))
    ORDER BY 1
    """
)

# Lists the sequences that fill columns which are not in $2, if the role may not use them.
FORBIDDEN_SEQUENCES: Final = sql.SQL(
    """
    SELECT DISTINCT namespace.nspname::pg_catalog.text, sequence.relname::pg_catalog.text
    FROM pg_catalog.pg_attrdef AS filled
    JOIN pg_catalog.pg_attribute AS attribute
        ON attribute.attrelid = filled.adrelid AND attribute.attnum = filled.adnum
    JOIN pg_catalog.pg_depend AS depend
        ON depend.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND depend.objid = filled.oid
       AND depend.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
    JOIN pg_catalog.pg_class AS sequence ON sequence.oid = depend.refobjid
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = sequence.relnamespace
    WHERE filled.adrelid = $1::pg_catalog.oid AND attribute.attname <> ALL ($2::pg_catalog.text[])
      AND CASE sequence.relkind WHEN 'S' THEN NOT pg_catalog.has_sequence_privilege(sequence.oid, 'USAGE, UPDATE') END
    ORDER BY 1, 2
    """
)

# Has a row if there is such a schema.
HAS_SCHEMA: Final = sql.SQL("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1::pg_catalog.text")

# Lists the tables of a schema.
TABLES: Final = sql.SQL(
    """
    SELECT class.relname::pg_catalog.text FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE namespace.nspname = $1::pg_catalog.text AND class.relkind IN ('r', 'p')
    ORDER BY 1
    """
)

# Describes the columns of a table: name, type as the server writes it, kind and modifier of the type (`column_types`),
# NOT NULL, default, `s` for a stored generated column, `a` for an identity that is always generated, and the collation
# if texts that differ may be equal under it. Then, of a type that is not built in: its schema, its name, and the labels
# of an enum. A domain is described as the type below it, which may be a domain too: the lowest one has the modifier. An
# array is described as its elements, with `_` before their kind.
COLUMNS: Final = sql.SQL(
    """
    WITH RECURSIVE declared AS (
        SELECT attname, attnum, atttypid, atttypmod, attnotnull, attgenerated, attidentity, attcollation,
               atthasdef OR typdefault IS NOT NULL AS has_default
        FROM pg_catalog.pg_attribute AS attribute
        JOIN pg_catalog.pg_type AS type ON type.oid = attribute.atttypid
        WHERE attribute.attrelid = $1::pg_catalog.oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
    ), resolved AS (
        SELECT attnum, atttypid AS type, atttypmod AS modifier, attnotnull AS not_null FROM declared
        UNION ALL
        SELECT resolved.attnum, domain.typbasetype, domain.typtypmod, resolved.not_null OR domain.typnotnull
        FROM resolved JOIN pg_catalog.pg_type AS domain ON domain.oid = resolved.type AND domain.typtype = 'd'
    )
    SELECT attribute.attname::pg_catalog.text,
           pg_catalog.format_type(attribute.atttypid, attribute.atttypmod),
           CASE WHEN whole.oid <> type.oid THEN '_' ELSE '' END ||
           CASE WHEN namespace.nspname = 'pg_catalog' THEN type.typname::pg_catalog.text
                WHEN type.typtype = 'e' THEN 'enum'
                WHEN extension.extname = 'citext' THEN type.typname::pg_catalog.text END,
           resolved.modifier, resolved.not_null, attribute.has_default, attribute.attgenerated::pg_catalog.text,
           attribute.attidentity::pg_catalog.text,
           CASE WHEN NOT collation_.collisdeterministic THEN collation_.collname::pg_catalog.text END,
           CASE WHEN namespace.nspname <> 'pg_catalog' THEN namespace.nspname::pg_catalog.text END,
           type.typname::pg_catalog.text,
           ARRAY(SELECT enumlabel::pg_catalog.text FROM pg_catalog.pg_enum
                 WHERE enumtypid = type.oid ORDER BY enumsortorder)
    FROM declared AS attribute
    JOIN resolved USING (attnum)
    JOIN pg_catalog.pg_type AS whole ON whole.oid = resolved.type AND whole.typtype <> 'd'
    LEFT JOIN pg_catalog.pg_type AS item ON item.typarray = whole.oid
    JOIN pg_catalog.pg_type AS type ON type.oid = COALESCE(item.oid, whole.oid)
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = type.typnamespace
    LEFT JOIN pg_catalog.pg_collation AS collation_ ON collation_.oid = attribute.attcollation
    LEFT JOIN pg_catalog.pg_depend AS member
        ON member.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND member.objid = type.oid
       AND member.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND member.deptype = 'e'
    LEFT JOIN pg_catalog.pg_extension AS extension ON extension.oid = member.refobjid
    ORDER BY attribute.attnum
    """
)

# Shows the types of a table's columns during a run. The session keeps its own settings, so quotes are taken out.
TYPES_NOW: Final = sql.SQL(
    """
    SELECT attribute.attname::pg_catalog.text,
           pg_catalog.replace(pg_catalog.format_type(attribute.atttypid, attribute.atttypmod), '"', '')
    FROM pg_catalog.pg_attribute AS attribute
    JOIN pg_catalog.pg_class AS class ON class.oid = attribute.attrelid
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    WHERE namespace.nspname = $1::pg_catalog.text AND class.relname = $2::pg_catalog.text
      AND attribute.attnum > 0 AND NOT attribute.attisdropped
    """
)

# Estimates the number of rows: the density at the last ANALYZE times the size now, over all partitions. A table that
# was never analysed counts as one row per 100 bytes.
ESTIMATED_COUNT: Final = sql.SQL(
    """
    WITH target AS (SELECT $1::pg_catalog.oid AS oid)
    SELECT COALESCE(sum(
        pg_catalog.pg_relation_size(class.oid)
        * CASE WHEN class.reltuples >= 0 AND class.relpages > 0
               THEN class.reltuples / (class.relpages * pg_catalog.current_setting('block_size')::pg_catalog.float8)
               ELSE 0.01 END
    ), 0)::pg_catalog.int8
    FROM pg_catalog.pg_class AS class, target
    WHERE class.oid = target.oid
       OR class.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(target.oid) WHERE isleaf)
    """
)

# Says whether row-level security may hide rows from this role.
ROW_SECURITY: Final = sql.SQL("SELECT pg_catalog.row_security_active($1::pg_catalog.oid)")

# Lists those of the schemas in $1 that the role may not use.
FORBIDDEN_SCHEMAS: Final = sql.SQL(
    """
    SELECT nspname::pg_catalog.text FROM pg_catalog.pg_namespace
    WHERE nspname = ANY ($1::pg_catalog.text[]) AND NOT pg_catalog.has_schema_privilege(oid, 'USAGE')
    ORDER BY 1
    """
)

# Shows the role's rights per column. A grant on the table implies them; grants on the columns alone are enough. DELETE
# is a right on the table.
COLUMN_RIGHTS: Final = sql.SQL(
    """
    SELECT attribute.attname::pg_catalog.text, right_.name
    FROM pg_catalog.pg_attribute AS attribute
    CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE')) AS right_ (name)
    WHERE attribute.attrelid = $1::pg_catalog.oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
      AND pg_catalog.has_column_privilege(attribute.attrelid, attribute.attnum, right_.name)
    UNION ALL
    SELECT '', 'DELETE' WHERE pg_catalog.has_table_privilege($1::pg_catalog.oid, 'DELETE')
    """
)

# Lists the users' triggers on the table and its partitions. A probe would run them too.
USER_TRIGGERS: Final = sql.SQL(
    """
    SELECT DISTINCT tgname::pg_catalog.text FROM pg_catalog.pg_trigger
    WHERE NOT tgisinternal AND tgenabled IN ('O', 'A')
      AND (tgrelid = $1::pg_catalog.oid
           OR tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::pg_catalog.oid)))
    ORDER BY 1
    """
)

# Lists the rules that break the statements of a sync (manual, "CREATE RULE"): any rule on INSERT or UPDATE makes the
# server refuse INSERT … ON CONFLICT, a rule on DELETE with INSTEAD makes it refuse DELETE … RETURNING, and COPY ignores
# rules.
RULES: Final = sql.SQL(
    """
    SELECT rulename::pg_catalog.text FROM pg_catalog.pg_rewrite
    WHERE ev_class = $1::pg_catalog.oid AND ev_enabled IN ('O', 'A')
      AND (ev_type IN ('2', '3') OR ev_type = '4' AND is_instead)
    ORDER BY 1
    """
)

# Lists tables that inherit from this table without being partitions, and partitions that are foreign tables.
HEIRS: Final = sql.SQL(
    """
    SELECT heir.oid::pg_catalog.regclass::pg_catalog.text, heir.relispartition
    FROM pg_catalog.pg_inherits AS link
    JOIN pg_catalog.pg_class AS heir ON heir.oid = link.inhrelid
    WHERE link.inhparent = $1::pg_catalog.oid AND NOT heir.relispartition
    UNION ALL
    SELECT part.oid::pg_catalog.regclass::pg_catalog.text, true
    FROM pg_catalog.pg_partition_tree($1::pg_catalog.oid) AS tree
    JOIN pg_catalog.pg_class AS part ON part.oid = tree.relid
    WHERE part.relkind = 'f'
    ORDER BY 1
    """
)

# Lists foreign keys that reference the table or one of its partitions, and what a deletion does to them.
FOREIGN_KEYS: Final = sql.SQL(
    """
    SELECT conname::pg_catalog.text, conrelid::pg_catalog.regclass::pg_catalog.text,
           CASE confdeltype WHEN 'a' THEN 'NO ACTION' WHEN 'r' THEN 'RESTRICT' WHEN 'c' THEN 'CASCADE'
                            WHEN 'n' THEN 'SET NULL' WHEN 'd' THEN 'SET DEFAULT' END
    FROM pg_catalog.pg_constraint
    WHERE contype = 'f' AND conparentid = 0
      AND (confrelid = $1::pg_catalog.oid
           OR confrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::pg_catalog.oid)))
    ORDER BY 1
    """
)

# Says whether the collation of the column $2 orders texts by their bytes, so that the index of the key serves a range
# of ids: C and POSIX do, and the built-in provider ('b'). Servers before 15 have no datlocprovider.
IS_IN_BYTE_ORDER: Final = sql.SQL(
    """
    WITH chosen AS (
        SELECT collprovider::pg_catalog.text AS provider, collcollate::pg_catalog.text AS name
        FROM pg_catalog.pg_attribute
        JOIN pg_catalog.pg_collation AS collation_ ON collation_.oid = attcollation
        WHERE attrelid = $1::pg_catalog.oid AND attname = $2::pg_catalog.text
    ), used AS (
        SELECT provider, name FROM chosen WHERE provider <> 'd'
        UNION ALL
        SELECT COALESCE(pg_catalog.to_jsonb(database_) ->> 'datlocprovider', 'c'), datcollate::pg_catalog.text
        FROM pg_catalog.pg_database AS database_, chosen
        WHERE datname = pg_catalog.current_database() AND chosen.provider = 'd'
    )
    SELECT provider = 'b' OR provider = 'c' AND name IN ('C', 'POSIX') FROM used
    """
)
