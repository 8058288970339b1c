"""Speaks with a server of Gust as PostgreSQL's clients do: psycopg 3 and asyncpg.

Usage: postgres_clients.py PORT. It ends with status 0 if every answer is the expected one.
"""

import asyncio
import datetime
import decimal
import sys
import threading
import time
import uuid

import asyncpg
import psycopg

from stopping import ENDLESS, Stopping, ends_within_a_second, eventually, runs

ROWS = 1_000_003

# Values by their type in SQL, and what comes back.
VALUES = [
    ("boolean", True),
    ("smallint", -7),
    ("integer", 2**31 - 1),
    ("bigint", -(2**62)),
    ("real", 0.5),
    ("double precision", 1.25e-300),
    ("numeric(20, 4)", decimal.Decimal("12345678901.2500")),
    ("text", "ä'\n\\"),
    ("bytea", b"\x00\xff"),
    ("date", datetime.date(1969, 12, 31)),
    ("time", datetime.time(23, 59, 59, 123456)),
    ("timestamp", datetime.datetime(1999, 12, 31, 23, 59, 59, 123456)),
    ("timestamptz", datetime.datetime(2024, 2, 29, 12, 0, tzinfo=datetime.timezone.utc)),
]


def same(seen, expected, what):
    assert seen == expected and type(seen) is type(expected), f"{what}: {seen!r} is not {expected!r}"


def connect(port, **more):
    return psycopg.connect(host="127.0.0.1", port=port, user="ada", dbname="gust", **more)


def values_of_every_type(port):
    with connect(port, autocommit=True) as connection:
        for binary in (False, True):
            for name, value in VALUES:
                for given in (value, None):
                    cursor = connection.execute(f"SELECT %s::{name} AS v", [given], binary=binary)
                    same(cursor.fetchone()[0], given, f"{name}, binary {binary}")
        # Their types come from what they are compared with.
        row = connection.execute(
            "SELECT count(*) FROM t WHERE k < %s AND name <> %s AND k <> %s", [10, "n3", None]
        ).fetchone()
        same(row, (0,), "NULL is never different")
        row = connection.execute("SELECT count(*), max(name) FROM t WHERE k < %s AND name <> %s", [10, "n3"]).fetchone()
        same(row, (8, "n9"), "values from Python")
        row = connection.execute("SELECT k FROM t ORDER BY k LIMIT %s OFFSET %s", [1, 4]).fetchone()
        same(row, (5,), "LIMIT and OFFSET")
        row = connection.execute("SELECT ARRAY[1, 2, NULL]").fetchone()
        same(row, ([1, 2, None],), "an array")
        row = connection.execute("SELECT '123456789012345678901234567890.12345678'::decimal(38, 8), 18446744073709551615::bigint unsigned").fetchone()
        same(row, (decimal.Decimal("123456789012345678901234567890.12345678"), decimal.Decimal(2**64 - 1)), "large numbers")
        # Spaces are part of a text, and digits of a number.
        for name, count in (("n1", 1), (" n1", 0), ("n1 ", 0)):
            row = connection.execute("SELECT count(*) FROM t WHERE name = %s", [name]).fetchone()
            same(row, (count,), f"text {name!r}")
        for text in ("1E+2", "-1.5E-3", "1E-20", "12.50"):
            number = decimal.Decimal(text)
            same(connection.execute("SELECT %s AS v", [number]).fetchone(), (number,), f"number {text}")
        for binary in (False, True):
            row = connection.execute(
                "SELECT NULL, '', NULL::interval, INTERVAL '1 day', 7::tinyint, [7::tinyint, NULL]", binary=binary
            ).fetchone()
            same(row, (None, "", None, datetime.timedelta(days=1), 7, [7, None]), f"NULL and others, binary {binary}")
        # The same statement many times is prepared by the client.
        for number in range(20):
            same(connection.execute("SELECT %s + 1", [number], prepare=True).fetchone(), (number + 1,), "prepared")


def errors_have_codes(port):
    with connect(port, autocommit=True) as connection:
        for sql, code, position, words in [
            ("SELECT * FROM ordres", "42P01", None, "ordres"),
            ("SELECT 1 FORM t", "42601", None, ""),
            ("SELECT 1;\nSELEC 2", "42601", "11", "SELEC"),
            ("SELECT 1 / (k - 1) FROM t", "22000", None, "ivide by zero"),
            ("INSERT INTO t VALUES (1, 'x')", "42000", None, "gust reads"),
            ("FETCH 1 FROM nothing", "34000", None, "nothing"),
            ("SET client_encoding = 'LATIN1'", "22023", None, "UTF8"),
            ("SELECT * FROM '/etc/passwd'", "42501", None, "outside of what this server reads"),
        ]:
            try:
                connection.execute(sql)
                raise AssertionError(f"{sql} succeeded")
            except psycopg.Error as error:
                assert error.sqlstate == code, f"{sql}: {error.sqlstate} {error}"
                assert words in str(error), f"{sql}: {error}"
                if position:
                    assert error.diag.statement_position == position, f"{sql}: {error.diag.statement_position}"
            same(connection.execute("SELECT 1").fetchone(), (1,), f"after {sql}")
        try:
            connection.execute("SELECT %s::integer", ["x"])
            raise AssertionError("`x` is no number")
        except psycopg.Error as error:
            assert "x" in str(error), error


def transactions_have_states(port):
    status = psycopg.pq.TransactionStatus
    with connect(port) as connection:
        assert connection.info.transaction_status == status.IDLE
        connection.execute("SELECT 1")
        assert connection.info.transaction_status == status.INTRANS
        try:
            connection.execute("SELECT * FROM nothing")
        except psycopg.Error:
            pass
        assert connection.info.transaction_status == status.INERROR
        try:
            connection.execute("SELECT 1")
            raise AssertionError("the transaction has failed")
        except psycopg.errors.InFailedSqlTransaction:
            pass
        connection.rollback()
        same(connection.execute("SELECT 2").fetchone(), (2,), "after the rollback")
        connection.commit()
        assert connection.info.transaction_status == status.IDLE
        assert connection.info.parameter_status("server_encoding") == "UTF8"
        connection.execute("SET application_name = 'test'")
        assert connection.info.parameter_status("application_name") == "test"
        same(connection.execute("SHOW application_name").fetchone(), ("test",), "SHOW")


def savepoints_and_settings_end(port):
    with connect(port, options="-c statement_timeout=7s") as connection:
        same(connection.execute("SHOW statement_timeout").fetchone(), ("7s",), "an option")
        try:
            with connection.transaction():
                connection.execute("SELECT * FROM nothing")
        except psycopg.errors.UndefinedTable:
            pass
        same(connection.execute("SELECT 1").fetchone(), (1,), "after the savepoint")
        connection.execute("SET LOCAL statement_timeout = '9s'")
        connection.commit()
        same(connection.execute("SHOW statement_timeout").fetchone(), ("7s",), "after SET LOCAL")
        for sql, code in (("ROLLBACK TO nothing", "3B001"), ("RELEASE nothing", "3B001")):
            try:
                connection.execute(sql)
                raise AssertionError(f"{sql} succeeded")
            except psycopg.Error as error:
                assert error.sqlstate == code, f"{sql}: {error.sqlstate} {error}"
            connection.rollback()
    with connect(port, autocommit=True) as connection:
        connection.execute("CREATE TABLE own AS SELECT 1 AS k")
        same(connection.execute("SELECT k FROM own").fetchone(), (1,), "its own table")
        connection.execute("SET search_path = gust")
        connection.execute("DISCARD ALL")
        same(connection.execute("SELECT count(*) FROM t").fetchone(), (1000,), "the path is set back")
        try:
            connection.execute("SELECT k FROM own")
            raise AssertionError("the table is gone")
        except psycopg.errors.UndefinedTable:
            pass
    try:
        connect(port, options="-c nothing=1")
        raise AssertionError("the option is not known")
    except psycopg.OperationalError as error:
        assert "nothing" in str(error), error


def a_server_side_cursor_has_every_row(port):
    with connect(port) as connection:
        for binary in (False, True):
            with connection.cursor(name="rows", binary=binary) as cursor:
                cursor.itersize = 1_000
                cursor.execute(f"SELECT value AS v FROM generate_series(1, {ROWS}) WHERE value > %s", [0])
                assert [column.name for column in cursor.description] == ["v"]
                count = total = 0
                for (value,) in cursor:
                    count, total = count + 1, total + value
                same((count, total), (ROWS, ROWS * (ROWS + 1) // 2), "rows of the cursor")
        # Two cursors at once, which end early.
        with connection.cursor(name="one") as one, connection.cursor(name="two") as two:
            one.execute("SELECT value FROM generate_series(1, 10000000)")
            two.execute("SELECT value FROM generate_series(1, 10000000)")
            for start in (1, 4):
                for cursor in (one, two):
                    same([value for (value,) in cursor.fetchmany(3)], list(range(start, start + 3)), "in turns")
        same(connection.execute("SELECT 1").fetchone(), (1,), "after the cursors")


def a_notice_tells_the_cost(port):
    with connect(port, autocommit=True) as connection:
        notices = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        connection.execute("SELECT count(*) FROM t")
        assert notices == [], notices
        connection.execute("SET gust.notice_cost = on")
        connection.execute("SELECT count(*) FROM t")
        assert len(notices) == 1 and " cost $" in notices[0], notices


def a_cancelled_statement_ends_alone(port):
    def rows(sql):
        with connect(port, autocommit=True) as connection:
            return connection.execute(sql).fetchall()

    def cancelled(name):
        with connect(port, autocommit=True) as one:
            stopping = Stopping(rows, name, one.cancel_safe)
            try:
                one.execute(ENDLESS.format(name))
                raise AssertionError("it is endless")
            except psycopg.errors.QueryCanceled as error:
                assert "cancelled" in str(error), error
            same(one.execute("SELECT 1").fetchone(), (1,), "after the cancellation")
            return stopping.ended()

    def closed(name):
        with connect(port) as one, one.cursor(name="early") as cursor:
            cursor.execute(f"SELECT value AS {name} FROM generate_series(1, 1000000000)")
            same(cursor.fetchone(), (1,), "the first row")
            began = time.time()
            one.close()
            return began

    def given_up(name):
        """asyncpg cancels what its task does not wait for any more."""
        async def asked():
            connection = await asyncpg.connect(host="127.0.0.1", port=port, user="ada", database="gust")
            fetching = asyncio.ensure_future(connection.fetch(ENDLESS.format(name)))
            await asyncio.get_running_loop().run_in_executor(None, lambda: eventually(lambda: runs(rows, name)))
            began = time.time()
            fetching.cancel()
            await asyncio.wait([fetching])
            assert fetching.cancelled(), fetching
            same(await connection.fetchval("SELECT 1::bigint"), 1, "after the cancellation")
            await connection.close()
            return began

        return asyncio.run(asked())

    with connect(port, autocommit=True) as two:
        neighbour = []
        slow = "SELECT count(*) FROM generate_series(1, 30000) a, generate_series(1, 10000) b WHERE a.value * b.value = -1"
        beside = threading.Thread(target=lambda: neighbour.append(two.execute(slow).fetchone()))
        beside.start()
        ends_within_a_second(rows, cancelled)
        beside.join()
        same(neighbour, [(0,)], "the neighbour's statement")
    ends_within_a_second(rows, closed)
    ends_within_a_second(rows, given_up)
    with connect(port, autocommit=True) as one:
        one.execute("SET statement_timeout = '300ms'")
        try:
            one.execute(ENDLESS.format("timed_out"))
            raise AssertionError("it is endless")
        except psycopg.errors.QueryCanceled as error:
            assert "300 ms" in str(error), error


async def asyncpg_speaks(port):
    connection = await asyncpg.connect(host="127.0.0.1", port=port, user="ada", database="gust")
    for name, value in VALUES:
        for given in (value, None):
            seen = await connection.fetchval(f"SELECT $1::{name} AS v", given)
            same(seen, given, f"asyncpg, {name}")
    same(await connection.fetchval("SELECT 7::tinyint"), 7, "a small number of asyncpg")
    same(await connection.fetchval("SELECT NULL::interval"), None, "NULL of asyncpg")
    rows = await connection.fetch("SELECT k, name FROM t WHERE k < $1 ORDER BY k", 3)
    same([tuple(row) for row in rows], [(1, "n1"), (2, "n2")], "rows of asyncpg")
    async with connection.transaction():
        count = total = 0
        async for row in connection.cursor(f"SELECT value AS v FROM generate_series(1, {ROWS}) WHERE value > $1", 0, prefetch=1_000):
            count, total = count + 1, total + row["v"]
    same((count, total), (ROWS, ROWS * (ROWS + 1) // 2), "rows of asyncpg's cursor")
    try:
        await connection.fetch("SELECT nothing FROM t")
        raise AssertionError("there is no such column")
    except asyncpg.PostgresError as error:
        assert error.sqlstate == "42703", error
    await connection.close()


def main():
    port = int(sys.argv[1])
    for check in [
        values_of_every_type,
        errors_have_codes,
        transactions_have_states,
        savepoints_and_settings_end,
        a_notice_tells_the_cost,
        a_cancelled_statement_ends_alone,
        a_server_side_cursor_has_every_row,
    ]:
        check(port)
        print(f"{check.__name__}: as expected", flush=True)
    asyncio.run(asyncpg_speaks(port))
    print("asyncpg_speaks: as expected")


if __name__ == "__main__":
    main()
