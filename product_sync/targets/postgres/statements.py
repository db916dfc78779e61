"""Every statement that runs against the cart's database, with what it is for.

All names are qualified, down to ``pg_catalog``: the role's ``search_path`` is left as it is, because triggers of the
table's owner may need it, and must not decide what our statements mean. Identifiers are composed, values bound.
Placeholders are the server's own (``$1``), so that a ``%`` in a column's name is only a character.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from psycopg import sql

from product_sync.schema.row_schema import RowColumn, RowSchema
from product_sync.targets.postgres.binary_arrays import wire

# The server looks every two seconds whether the client of a running statement is still there, and ends the statement
# if not, also one that waits for a lock. Kept as it is where somebody has set it; unknown before 14, and impossible on
# Windows.
CHECK_CLIENT: Final = """
    SELECT CASE WHEN COALESCE(pg_catalog.current_setting('client_connection_check_interval', true), 'none') = '0'
                 AND pg_catalog.version() !~* 'visual c|mingw|msys'
           THEN pg_catalog.set_config('client_connection_check_interval', '2s', {is_local}) END
    """
CHECK_CLIENT_IN_SESSION: Final = sql.SQL(CHECK_CLIENT.format(is_local="false"))
CHECK_CLIENT_IN_TRANSACTION: Final = CHECK_CLIENT.format(is_local="true")

# One consistent picture for all statements of a reading, and an error instead of fewer rows where row-level security
# would hide some (manual, "row_security").
# From the table's beginning, wherever somebody else reads it just then: its order is worth something (prefilter.py).
BEGIN_READ: Final = sql.SQL(
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL row_security = off;"
    f" SET LOCAL synchronize_seqscans = off; {CHECK_CLIENT_IN_TRANSACTION}"
)

# Names of types as they are, on a connection that only reflects: a role may have them quoted, where nobody knows them.
PLAIN_NAMES: Final = sql.SQL("SET quote_all_identifiers = off")

# Who keeps a session waiting for a lock: when its statement began; of each of the others process, name, state, and the
# seconds that its transaction has lasted. No row where it does not wait.
BLOCKED_BY: Final = sql.SQL(
    """
    SELECT blocked.query_start::pg_catalog.text, blocking.pid, other.application_name, other.state,
           EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - other.xact_start)::pg_catalog.float8
    FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids($1::pg_catalog.int4)) AS blocking(pid)
    LEFT JOIN pg_catalog.pg_stat_activity AS other ON other.pid = blocking.pid
    LEFT JOIN pg_catalog.pg_stat_activity AS blocked ON blocked.pid = $1::pg_catalog.int4
    """
)

# End the statement of another session of our role.
CANCEL: Final = sql.SQL("SELECT pg_catalog.pg_cancel_backend($1::pg_catalog.int4)")

# Which server process serves this connection, and since when: a process id alone may be used again.
BACKEND: Final = sql.SQL(
    """
    SELECT pid, backend_start::pg_catalog.text FROM pg_catalog.pg_stat_activity
    WHERE pid = pg_catalog.pg_backend_pid()
    """
)

# The process alone, asked twice to see whether a pooler changes it.
BACKEND_PID: Final = sql.SQL("SELECT pg_catalog.pg_backend_pid()")
# The same as text: where the search_path hides pg_catalog, ADBC does not know the type int4, and gives its bytes.
BACKEND_PID_AS_TEXT: Final = sql.SQL("SELECT pg_catalog.pg_backend_pid()::pg_catalog.text")

# Begin, and learn the transaction's id before anything is written: it is needed when the answer of COMMIT is lost.
# READ COMMITTED: a row that changed while the statement waited is compared again (manual, 13.2.1). Not READ WRITE:
# who set the role or the database read-only meant it.
BEGIN_WRITE: Final = sql.SQL(
    "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text"
)

# The same, with a COMMIT that does not wait for the disk. Only of this transaction: a session may be a pool's.
BEGIN_UNFLUSHED_WRITE: Final = sql.SQL(
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = off;"
    " SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text"
)

# Whether COMMIT waits for this server's disk and for nothing else, and whether the role can see how far that is.
WAITS_FOR_ITS_DISK: Final = sql.SQL(
    """
    SELECT pg_catalog.current_setting('synchronous_commit') <> 'off'
       AND pg_catalog.current_setting('synchronous_standby_names') = ''
       AND pg_catalog.pg_current_wal_flush_lsn() <= pg_catalog.pg_current_wal_insert_lsn()
    """
)

# How far the log has been written, flushed or not.
WRITTEN_LOG: Final = sql.SQL("SELECT pg_catalog.pg_current_wal_insert_lsn()::pg_catalog.text")

# Whether it is on the disk up to there.
IS_FLUSHED: Final = sql.SQL("SELECT pg_catalog.pg_current_wal_flush_lsn() >= $1::pg_catalog.pg_lsn")

# The probe gives way to everybody, and before the server looks for deadlocks (deadlock_timeout, 1 s): the transaction
# that it ends then could be a sync's.
BEGIN_PROBE: Final = sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '200ms'")

# Rows that exclude each other may do so until the transaction ends, where the constraint lets them.
DEFER_CONSTRAINTS: Final = sql.SQL("SET CONSTRAINTS ALL DEFERRED")

# Deferred constraints would never fire in a transaction that is rolled back.
CHECK_DEFERRED: Final = sql.SQL("SET CONSTRAINTS ALL IMMEDIATE")

# What became of a transaction whose answer was lost: committed, aborted, in progress, or NULL if too old.
TRANSACTION_STATUS: Final = sql.SQL("SELECT pg_catalog.pg_xact_status($1::pg_catalog.xid8)")

# A standby refuses writes until it is promoted.
IN_RECOVERY: Final = sql.SQL("SELECT pg_catalog.pg_is_in_recovery()")

# The server probes the session that holds the lock, as the client probes the server: a host that vanishes without a
# word would else keep the lock for hours, until the system's own keep-alives notice.
KEEP_ALIVE: Final = sql.SQL(
    "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"
)

# The sync's lock: one per table, held by the session, freed with the connection.
TRY_LOCK: Final = sql.SQL("SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended($1::pg_catalog.text, 0))")

# Who holds it. An advisory lock's 64-bit key is shown as two halves (manual, "pg_locks").
LOCK_HOLDER: Final = sql.SQL(
    """
    SELECT lock.pid, activity.application_name, activity.backend_start::pg_catalog.text
    FROM pg_catalog.pg_locks AS lock
    LEFT JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = lock.pid
    WHERE lock.locktype = 'advisory' AND lock.granted AND lock.objsubid = 1
      AND lock.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
      AND (lock.classid::pg_catalog.int8 << 32) | lock.objid::pg_catalog.int8
          = pg_catalog.hashtextextended($1::pg_catalog.text, 0)
    """
)

# End our own former session, which the server may keep alive, locks included, for minutes after the network lost it.
END_FORMER_SESSION: Final = sql.SQL(
    """
    SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
    WHERE pid = $1::pg_catalog.int4 AND backend_start::pg_catalog.text = $2::pg_catalog.text
    """
)

# One round trip, and nothing else.
PING: Final = sql.SQL("SELECT")

# A look at the target must not become a part of its pressure.
LIMIT_LOOKS: Final = sql.SQL("SET statement_timeout = '1s'; SET lock_timeout = '1s'")


def limit_statements(seconds: float) -> sql.Composed:
    """No statement of this session runs, or waits for a lock, for longer."""
    limit = sql.Literal(f"{seconds * 1000:.0f}ms")
    return sql.SQL("SET statement_timeout = {}; SET lock_timeout = {}").format(limit, limit)


# How many replicas are connected, and how far behind the slowest of them is; on a standby, how old its last transaction
# is. Everybody may count replicas, but how far they are is NULL without the rights of pg_read_all_stats. The lag of one
# that has everything is NULL too after a while (manual, "pg_stat_replication"), so its position is looked at first.
REPLICATION: Final = sql.SQL(
    """
    SELECT pg_catalog.count(*)::pg_catalog.int4,
           CASE WHEN pg_catalog.pg_is_in_recovery() THEN
               EXTRACT(EPOCH FROM pg_catalog.now() - pg_catalog.pg_last_xact_replay_timestamp())::pg_catalog.float8
           WHEN pg_catalog.bool_and(behind IS NOT NULL) THEN pg_catalog.max(behind)
           END
    FROM (
        SELECT CASE WHEN pg_catalog.pg_is_in_recovery() OR replay_lsn IS NULL THEN NULL
                    WHEN replay_lsn >= pg_catalog.pg_current_wal_lsn() THEN 0
                    ELSE EXTRACT(EPOCH FROM replay_lag)::pg_catalog.float8
               END AS behind
        FROM pg_catalog.pg_stat_replication
    ) AS replicas
    """
)

# What adaptive pacing looks at. Everybody may read pg_locks; what other roles' sessions do, and how far replicas are,
# is NULL without the rights of pg_read_all_stats (manual, "pg_stat_activity"). Row locks are waited for as locks on
# transactions, which belong to no database.
PRESSURE: Final = sql.SQL(
    """
    SELECT (SELECT pg_catalog.count(DISTINCT pid) FROM pg_catalog.pg_locks
            WHERE NOT granted AND (database IS NULL OR database = here.oid)),
           CASE WHEN here.sees THEN
               (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity
                WHERE state = 'active' AND backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid())
           END,
           CASE WHEN here.sees THEN
               (SELECT COALESCE(EXTRACT(EPOCH FROM pg_catalog.max(replay_lag)), 0)::pg_catalog.float8
                FROM pg_catalog.pg_stat_replication)
           END
    FROM (SELECT oid, pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') AS sees
          FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) AS here
    """
)

# A table by its exact name, with what SQLAlchemy does not tell: its kind, and whether its primary key is deferrable.
RELATION: Final = sql.SQL(
    """
    SELECT class.oid, class.relkind, COALESCE(pkey.condeferrable, false)
    FROM pg_catalog.pg_class AS class
    JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
    LEFT JOIN pg_catalog.pg_constraint AS pkey ON pkey.conrelid = class.oid AND pkey.contype = 'p'
    WHERE namespace.nspname = $1::pg_catalog.text AND class.relname = $2::pg_catalog.text
    """
)

# Types as the server writes them, and collations under which different texts are equal.
COLUMN_TYPES: Final = sql.SQL(
    """
    SELECT attribute.attname, pg_catalog.format_type(attribute.atttypid, attribute.atttypmod),
           CASE WHEN NOT collation_.collisdeterministic THEN collation_.collname::pg_catalog.text END
    FROM pg_catalog.pg_attribute AS attribute
    LEFT JOIN pg_catalog.pg_collation AS collation_ ON collation_.oid = attribute.attcollation
    WHERE attribute.attrelid = $1::pg_catalog.oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
    """
)

# The same of a table by its name, in the middle of a run. The session may quote names, and must stay as it is.
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

# About how many rows: the density at the last ANALYZE times the size now, over all partitions; a table that was
# never analysed counts as one row per 100 bytes.
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

# Under row-level security reads see fewer rows than there are.
ROW_SECURITY: Final = sql.SQL("SELECT pg_catalog.row_security_active($1::pg_catalog.oid)")

# What `doctor` and the dry run show of the server.
SERVER: Final = sql.SQL(
    "SELECT pg_catalog.current_setting('server_version'), pg_catalog.pg_is_in_recovery(), CURRENT_USER::pg_catalog.text"
)

# Rights on the schema and the whole table.
TABLE_RIGHTS: Final = sql.SQL(
    """
    SELECT pg_catalog.has_schema_privilege(class.relnamespace, 'USAGE'),
           pg_catalog.has_table_privilege(class.oid, 'DELETE')
    FROM pg_catalog.pg_class AS class WHERE class.oid = $1::pg_catalog.oid
    """
)

# Rights per column: a grant on the table implies them, grants on the columns alone suffice.
COLUMN_RIGHTS: Final = sql.SQL(
    """
    SELECT attribute.attname::pg_catalog.text, right_.name
    FROM pg_catalog.pg_attribute AS attribute
    CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE')) AS right_ (name)
    WHERE attribute.attrelid = $1::pg_catalog.oid AND attribute.attnum > 0 AND NOT attribute.attisdropped
      AND pg_catalog.has_column_privilege(attribute.attrelid, attribute.attnum, right_.name)
    """
)

# Triggers that are not the server's own, on the table or one of its partitions: they would run in a probe too.
USER_TRIGGERS: Final = sql.SQL(
    """
    SELECT DISTINCT tgname::pg_catalog.text FROM pg_catalog.pg_trigger
    WHERE NOT tgisinternal AND tgenabled IN ('O', 'A')
      AND (tgrelid = $1::pg_catalog.oid
           OR tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::pg_catalog.oid)))
    ORDER BY 1
    """
)

# Rules that a sync's statements would run into (manual, "CREATE RULE"): INSERT … ON CONFLICT is refused with any on
# INSERT or UPDATE, DELETE … RETURNING with one that says INSTEAD, and COPY does not follow them.
RULES: Final = sql.SQL(
    """
    SELECT rulename::pg_catalog.text FROM pg_catalog.pg_rewrite
    WHERE ev_class = $1::pg_catalog.oid AND ev_enabled IN ('O', 'A')
      AND (ev_type IN ('2', '3') OR ev_type = '4' AND is_instead)
    ORDER BY 1
    """
)

# Tables that inherit from this one and are no partitions of it, and partitions that are foreign tables.
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

# Whether a transaction of this session can write, and who says that it cannot (manual, "pg_settings").
READ_ONLY: Final = sql.SQL(
    """
    SELECT pg_catalog.pg_is_in_recovery(), setting = 'on', source, pg_catalog.current_database()::pg_catalog.text
    FROM pg_catalog.pg_settings WHERE name = 'default_transaction_read_only'
    """
)

# Foreign keys onto the table or one of its partitions, and what they do when a row is deleted.
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


def table(row_schema: RowSchema) -> sql.Identifier:
    return sql.Identifier(row_schema.table.schema, row_schema.table.name)


def select_all(row_schema: RowSchema) -> sql.Composed:
    """Every row, in canonical values."""
    return sql.SQL("SELECT {} FROM {} AS p").format(_shown(row_schema), table(row_schema))


def count(row_schema: RowSchema) -> sql.Composed:
    """All rows, counted."""
    return sql.SQL("SELECT pg_catalog.count(*) FROM {}").format(table(row_schema))


def select_by_ids(row_schema: RowSchema) -> sql.Composed:
    """The rows of the ids in ``$1``. ``= ANY`` of an array keeps the index on the key."""
    return sql.SQL("SELECT {} FROM {} AS p WHERE p.{} = ANY ({})").format(
        _shown(row_schema),
        table(row_schema),
        sql.Identifier(row_schema.key.name),
        wire(row_schema.key.type).parsed_array(sql.SQL("$1::pg_catalog.text[]")),
    )


def insert(row_schema: RowSchema) -> sql.Composed:
    """Rows that are not there yet. The conflict target is named: without it, a row that violates another unique
    constraint would be skipped in silence."""
    rows = _Rows([("k", row_schema.key), *_numbered("n", row_schema.values)])
    return sql.SQL(
        "INSERT INTO {table} AS p ({columns}) SELECT {values} FROM {rows} ON CONFLICT ({key}) DO NOTHING RETURNING {id}"
    ).format(
        table=table(row_schema),
        columns=_comma(sql.Identifier(column.name) for column in row_schema.columns),
        values=_comma(rows.values()),
        rows=rows.unnested(),
        key=sql.Identifier(row_schema.key.name),
        id=_id(row_schema),
    )


def copy_in(row_schema: RowSchema) -> sql.Composed:
    """Rows of which none is there yet, by the fastest way in. One that is there is an error for all."""
    return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(
        table(row_schema), _comma(sql.Identifier(column.name) for column in row_schema.columns)
    )


def update(row_schema: RowSchema) -> sql.Composed:
    """Compare-and-swap: new values only where the row still holds the old ones. The key stays outside the row
    comparison, where it would cost the index."""
    new, old = _numbered("n", row_schema.compared), _numbered("o", row_schema.compared)
    rows = _Rows([("k", row_schema.key), *new, *old])
    return sql.SQL(
        "UPDATE {table} AS p SET {assignments} FROM {rows} WHERE p.{key} = {k} AND {unchanged} RETURNING {id}"
    ).format(
        table=table(row_schema),
        assignments=_comma(
            sql.SQL("{} = {}").format(sql.Identifier(column.name), rows.value(alias)) for alias, column in new
        ),
        rows=rows.unnested(),
        key=sql.Identifier(row_schema.key.name),
        k=rows.value("k"),
        unchanged=_unchanged(rows, old),
        id=_id(row_schema),
    )


def delete(row_schema: RowSchema) -> sql.Composed:
    """Compare-and-swap: only rows that still hold all the values that were seen."""
    old = _numbered("o", row_schema.values)
    rows = _Rows([("k", row_schema.key), *old])
    return sql.SQL("DELETE FROM {table} AS p USING {rows} WHERE p.{key} = {k} AND {unchanged} RETURNING {id}").format(
        table=table(row_schema),
        rows=rows.unnested(),
        key=sql.Identifier(row_schema.key.name),
        k=rows.value("k"),
        unchanged=_unchanged(rows, old),
        id=_id(row_schema),
    )


def written_by(row_schema: RowSchema) -> sql.Composed:
    """Whether one of the rows ``$1`` was last written by transaction ``$2``, and whether one of the rows ``$3`` exists.

    ``xmin`` holds the low 32 bits of the transaction that wrote the row (manual, 5.6 "System Columns").
    """
    return sql.SQL(
        """
        SELECT EXISTS (SELECT FROM {table} AS p WHERE p.{key} = ANY ({wrote})
                       AND p.xmin = $2::pg_catalog.text::pg_catalog.xid8::pg_catalog.xid),
               EXISTS (SELECT FROM {table} AS p WHERE p.{key} = ANY ({deleted}))
        """
    ).format(
        table=table(row_schema),
        key=sql.Identifier(row_schema.key.name),
        wrote=wire(row_schema.key.type).parsed_array(sql.SQL("$1::pg_catalog.text[]")),
        deleted=wire(row_schema.key.type).parsed_array(sql.SQL("$3::pg_catalog.text[]")),
    )


def flush(row_schema: RowSchema) -> sql.Composed:
    """A transaction that changes nothing and has to be on the disk, with all before it, when it is committed: the
    weakest lock on one of the rows ``$1``, for which it does not wait."""
    return sql.SQL("SELECT FROM {table} AS p WHERE p.{key} = ANY ({ids}) LIMIT 1 FOR KEY SHARE SKIP LOCKED").format(
        table=table(row_schema),
        key=sql.Identifier(row_schema.key.name),
        ids=wire(row_schema.key.type).parsed_array(sql.SQL("$1::pg_catalog.text[]")),
    )


class _Rows:
    """Bound arrays as rows: ``ROWS FROM (unnest($1::…[]), unnest($2::…[])) AS u (alias, alias)``, the parameters in the
    given order. It is what ``unnest`` of several arrays stands for, which takes no schema before its name."""

    def __init__(self, columns: Sequence[tuple[str, RowColumn]]) -> None:
        self._columns = dict(columns)

    def unnested(self) -> sql.Composed:
        arrays = (
            sql.SQL(f"pg_catalog.unnest(${number}::pg_catalog.{{}}[])").format(
                sql.Identifier(wire(column.type).element)
            )
            for number, column in enumerate(self._columns.values(), start=1)
        )
        return sql.SQL("ROWS FROM ({}) AS u ({})").format(
            _comma(arrays), _comma(sql.Identifier(alias) for alias in self._columns)
        )

    def value(self, alias: str) -> sql.Composed:
        return wire(self._columns[alias].type).parsed(sql.Identifier("u", alias))

    def values(self) -> list[sql.Composed]:
        return [self.value(alias) for alias in self._columns]


def _numbered(prefix: str, columns: Iterable[RowColumn]) -> list[tuple[str, RowColumn]]:
    return [(f"{prefix}{number}", column) for number, column in enumerate(columns)]


def _unchanged(rows: _Rows, old: Sequence[tuple[str, RowColumn]]) -> sql.Composed:
    return sql.SQL("ROW({}) IS NOT DISTINCT FROM ROW({})").format(
        _comma(wire(column.type).compared(sql.Identifier("p", column.name)) for _, column in old),
        _comma(rows.value(alias) for alias, _ in old),
    )


def _shown(row_schema: RowSchema) -> sql.Composed:
    return _comma(wire(column.type).shown(sql.Identifier("p", column.name)) for column in row_schema.columns)


def _id(row_schema: RowSchema) -> sql.Composed:
    return sql.SQL("{}::pg_catalog.text").format(sql.Identifier("p", row_schema.key.name))


def _comma(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
