"""Statements about sessions: transactions, locks, waits, lost commits, pressure. `catalog_sql` asks about the table.

All names are qualified down to ``pg_catalog``, so that the role's ``search_path`` does not change their meaning. It is
not set either: triggers of the table's owner may need it. Placeholders are the server's own (``$1``), so that a ``%``
in a column's name is only a character.
"""

from __future__ import annotations

from typing import Final

from psycopg import sql

# Makes the server check every two seconds whether the client is still there, and end the statement if it is not, also
# while it waits for a lock. Keeps a value that somebody has set. Unknown before version 14, impossible on Windows.
CHECK_CLIENT: Final = """
    SELECT CASE WHEN COALESCE(pg_catalog.current_setting('client_connection_check_interval', true), 'none') = '0'
                 AND pg_catalog.version() !~* 'visual c|mingw|msys'
           THEN pg_catalog.set_config('client_connection_check_interval', '2s', {is_local}) END
    """
CHECK_CLIENT_IN_SESSION: Final = sql.SQL(CHECK_CLIENT.format(is_local="false"))

# Settings of a transaction that reads: one consistent snapshot; an error instead of fewer rows where row-level security
# hides some (manual, "row_security"); rows from the start of the table, because `prefilter` uses their order.
READ_SETTINGS: Final = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
    "SET LOCAL row_security = off",
    "SET LOCAL synchronize_seqscans = off",
    CHECK_CLIENT.format(is_local="true"),
)
# Begins a transaction that reads.
BEGIN_READ: Final = sql.SQL("; ".join(("BEGIN", *READ_SETTINGS)))

# Begins a transaction that writes and returns its id, which is needed if the answer to COMMIT is lost. READ COMMITTED:
# a row that changes while the statement waits is compared again (manual, 13.2.1). Not READ WRITE: a role or database
# that is set read-only stays read-only.
BEGIN_WRITE: Final = sql.SQL(
    "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text"
)

# The same, but COMMIT does not wait for the disk. Set for the transaction only: the session may belong to a pool.
BEGIN_UNFLUSHED_WRITE: Final = sql.SQL(
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = off;"
    " SELECT pg_catalog.pg_current_xact_id()::pg_catalog.text"
)

# Begins a probe. It gives up a lock before the server looks for deadlocks (deadlock_timeout, 1 s), where the server
# might end the sync's transaction instead.
BEGIN_PROBE: Final = sql.SQL("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '200ms'; SELECT ''")

# Lets deferrable constraints be violated until COMMIT.
DEFER_CONSTRAINTS: Final = sql.SQL("SET CONSTRAINTS ALL DEFERRED")

# Checks deferred constraints now: a transaction that is rolled back would never check them.
CHECK_DEFERRED: Final = sql.SQL("SET CONSTRAINTS ALL IMMEDIATE")

# Says whether a transaction was committed, aborted or is in progress; NULL if it is too old.
TRANSACTION_STATUS: Final = sql.SQL("SELECT pg_catalog.pg_xact_status($1::pg_catalog.xid8)")

# Says whether COMMIT waits for this server's disk and for nothing else, and whether the role may see the log position.
WAITS_FOR_ITS_DISK: Final = sql.SQL(
    """
    SELECT pg_catalog.current_setting('synchronous_commit') <> 'off'
       AND pg_catalog.current_setting('synchronous_standby_names') = ''
       AND pg_catalog.pg_current_wal_flush_lsn() <= pg_catalog.pg_current_wal_insert_lsn()
    """
)

# The end of the log, flushed or not.
WRITTEN_LOG: Final = sql.SQL("SELECT pg_catalog.pg_current_wal_insert_lsn()::pg_catalog.text")

# Says whether the log is on the disk up to a position.
IS_FLUSHED: Final = sql.SQL("SELECT pg_catalog.pg_current_wal_flush_lsn() >= $1::pg_catalog.pg_lsn")

# Says whether the server is a standby, which refuses writes until it is promoted.
IN_RECOVERY: Final = sql.SQL("SELECT pg_catalog.pg_is_in_recovery()")

# The server process of this connection and its start. The process id alone may be used again.
BACKEND: Final = sql.SQL(
    """
    SELECT pid, backend_start::pg_catalog.text FROM pg_catalog.pg_stat_activity
    WHERE pid = pg_catalog.pg_backend_pid()
    """
)

# The server process alone, as text: ADBC returns an int4 as bytes where the search_path hides pg_catalog.
BACKEND_PID: Final = sql.SQL("SELECT pg_catalog.pg_backend_pid()::pg_catalog.text")

# Ends our own former session. After a network failure the server may keep it and its locks for minutes.
END_FORMER_SESSION: Final = sql.SQL(
    """
    SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
    WHERE pid = $1::pg_catalog.int4 AND backend_start::pg_catalog.text = $2::pg_catalog.text
    """
)

# Makes the server check that the client of the session with the lock is alive. Without it the server would keep the
# lock of a client that vanished for hours.
KEEP_ALIVE: Final = sql.SQL(
    "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"
)

# Takes the sync's lock: one per table, held by the session, freed with the connection.
TRY_LOCK: Final = sql.SQL("SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended($1::pg_catalog.text, 0))")

# The advisory locks of this database that are held. pg_locks shows a 64-bit key as two halves, with objsubid 1; a key
# of two 32-bit numbers has objsubid 2.
_HELD: Final = sql.SQL(
    """
    held AS (
        SELECT pid, objsubid, (classid::pg_catalog.int8 << 32) | objid::pg_catalog.int8 AS key
        FROM pg_catalog.pg_locks
        WHERE locktype = 'advisory' AND granted
          AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
    )
    """
)

# Finds the sessions that hold the sync's lock, the oldest first.
LOCK_HOLDERS: Final = sql.SQL(
    """
    WITH {held}
    SELECT held.pid, activity.application_name, activity.backend_start::pg_catalog.text
    FROM held LEFT JOIN pg_catalog.pg_stat_activity AS activity ON activity.pid = held.pid
    WHERE held.objsubid = 1 AND held.key = pg_catalog.hashtextextended($1::pg_catalog.text, 0)
    ORDER BY activity.backend_start, held.pid
    """
).format(held=_HELD)


def try_shared_lock(table: str, run: str) -> sql.Composed:
    """Takes the lock of a table together with the other steps of a run. The last result is false if it is not free.

    Three statements in one transaction that never waits for this client. The first lets one session at a time ask. The
    second marks the session with its run, by a shared lock whose key is two numbers. The third refuses if a session
    has the lock and the mark of another run. A session without a mark does not count: one that ends loses its locks in
    any order, and a sync without shards refuses the shared lock anyway.
    """
    return sql.SQL(
        """
        SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended({join}, 0));
        SELECT pg_catalog.pg_advisory_lock_shared((key >> 32)::pg_catalog.int4, ((key << 32) >> 32)::pg_catalog.int4)
        FROM pg_catalog.hashtextextended({run}, 0) AS run(key);
        WITH {held}
        SELECT CASE WHEN EXISTS (
            SELECT FROM held AS lock JOIN held AS mark ON mark.pid = lock.pid AND mark.objsubid = 2
            WHERE lock.objsubid = 1 AND lock.key = pg_catalog.hashtextextended({table}, 0)
            GROUP BY lock.pid
            HAVING NOT pg_catalog.bool_or(mark.key = pg_catalog.hashtextextended({run}, 0))
        ) THEN false ELSE pg_catalog.pg_try_advisory_lock_shared(pg_catalog.hashtextextended({table}, 0)) END
        """
    ).format(held=_HELD, join=sql.Literal(f"{table} join"), table=sql.Literal(table), run=sql.Literal(run))


# Finds the sessions that block a session: when its statement began, and of each blocker process, name, state and age of
# its transaction in seconds. No row if it does not wait.
BLOCKED_BY: Final = sql.SQL(
    """
    SELECT blocked.query_start::pg_catalog.text, blocking.pid, other.application_name, other.state,
           EXTRACT(EPOCH FROM pg_catalog.clock_timestamp() - other.xact_start)::pg_catalog.float8
    FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids($1::pg_catalog.int4)) AS blocking(pid)
    LEFT JOIN pg_catalog.pg_stat_activity AS other ON other.pid = blocking.pid
    LEFT JOIN pg_catalog.pg_stat_activity AS blocked ON blocked.pid = $1::pg_catalog.int4
    """
)

# Cancels the statement of another session of our role.
CANCEL: Final = sql.SQL("SELECT pg_catalog.pg_cancel_backend($1::pg_catalog.int4)")

# One round trip and nothing else.
PING: Final = sql.SQL("SELECT")


def limit_statements(seconds: float) -> sql.Composed:
    """Limits how long each statement of this session may run or wait for a lock."""
    limit = sql.Literal(f"{seconds * 1000:.0f}ms")
    return sql.SQL("SET statement_timeout = {}; SET lock_timeout = {}").format(limit, limit)


# Shows version, recovery and role for `doctor` and the dry run.
SERVER: Final = sql.SQL(
    "SELECT pg_catalog.current_setting('server_version'), pg_catalog.pg_is_in_recovery(), CURRENT_USER::pg_catalog.text"
)

# Says whether a transaction of this session can write, and where read-only is set (manual, "pg_settings").
READ_ONLY: Final = sql.SQL(
    """
    SELECT pg_catalog.pg_is_in_recovery(), setting = 'on', source, pg_catalog.current_database()::pg_catalog.text
    FROM pg_catalog.pg_settings WHERE name = 'default_transaction_read_only'
    """
)

# Counts the connected replicas and measures the lag of the slowest; on a standby, the age of its last transaction. The
# lag is NULL without the rights of pg_read_all_stats, and also for a replica that has been up to date for a while
# (manual, "pg_stat_replication"), so the replica's position is compared first.
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

# Measures the pressure for adaptive pacing: lock waits, active sessions, replica lag. The last two are NULL without the
# rights of pg_read_all_stats. A wait for a row lock is a wait for a transaction, which belongs to no database.
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
