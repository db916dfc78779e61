"""The floor of reading the target: binary COPY of the whole table, not decoded. Run as a program."""

import os

import psycopg

# copy_out: every row as it is stored.
_COPY_OUT = "COPY product TO STDOUT (FORMAT binary)"

if __name__ == "__main__":
    with psycopg.connect(os.environ["BENCH_TARGET"]) as connection, connection.cursor().copy(_COPY_OUT) as copy:
        for _block in copy:
            pass
