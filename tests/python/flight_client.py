"""Asks a server over Flight SQL as notebooks do, by ADBC: flight_client.py URI TOKEN TOKEN_OF_ANOTHER CERTIFICATE [STEP]...

Every step has rows by hand. The last line of the output is `ok` and the number of steps.
"""

import datetime
import decimal
import json
import sys
import threading
import time

import adbc_driver_flightsql.dbapi as flight
import adbc_driver_manager
import pyarrow as pa
import pyarrow.compute
import pyarrow.flight
from adbc_driver_flightsql import DatabaseOptions

URI, TOKEN, OTHER, CERTIFICATE = sys.argv[1:5]
TLS = {} if CERTIFICATE == "-" else {DatabaseOptions.TLS_ROOT_CERTS.value: open(CERTIFICATE).read()}


def connect(token=TOKEN):
    options = TLS | {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {token}"}
    return flight.connect(URI, db_kwargs=options, autocommit=True)


def rows(sql, parameters=None):
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


def refused(sql, *words, parameters=None, token=TOKEN):
    try:
        with connect(token) as connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            cursor.fetchall()
    except adbc_driver_manager.Error as error:
        for word in words:
            assert word in str(error), (sql, word, str(error))
        return error
    raise AssertionError(f"no error: {sql}")


def queries():
    assert rows("SELECT 6 * 7 AS answer") == [(42,)]
    assert rows("SELECT k, name FROM t WHERE k < 3 ORDER BY k") == [(1, "n1"), (2, "n2")]
    assert rows("SELECT k FROM t WHERE k < 0") == []
    assert rows("SELECT count(*) FROM t") == [(1000,)]


def types_are_plain():
    sql = """SELECT 'text' AS u, arrow_cast('v', 'Utf8View') AS v, arrow_cast('d', 'Dictionary(Int32, Utf8)') AS d,
        [arrow_cast('v', 'Utf8View')] AS l, named_struct('a', 1) AS s, CAST(NULL AS DATE) AS n, DATE '2026-11-29' AS day,
        CAST(1.50 AS DECIMAL(10, 2)) AS m, arrow_cast('x', 'BinaryView') AS b, TIMESTAMP '2026-11-29T10:00:00' AS at, true AS t"""
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        table = cursor.fetch_arrow_table()
    kinds = {field.name: field.type for field in table.schema}
    assert kinds["u"] == kinds["v"] == kinds["d"] == pa.string() and kinds["b"] == pa.binary(), kinds
    assert kinds["l"].value_type == pa.string() and kinds["day"] == pa.date32(), kinds
    row = table.to_pylist()[0]
    assert row["v"] == "v" and row["d"] == "d" and row["l"] == ["v"] and row["s"] == {"a": 1} and row["n"] is None, row
    assert row["m"] == decimal.Decimal("1.50") and row["day"] == datetime.date(2026, 11, 29) and row["b"] == b"x", row


def parameters():
    for value in [1, -5, 2**62, 0.25, "text", "", "it's", b"\x00\xff", True, None, datetime.date(2026, 2, 28),
                  datetime.datetime(2026, 2, 28, 12, 30), decimal.Decimal("12.34")]:
        got = rows("SELECT ? AS v", (value,))
        assert got == [(value,)], (value, got)
    assert rows("SELECT name FROM t WHERE k = ? OR name = ? ORDER BY k", (7, "n9")) == [("n7",), ("n9",)]
    assert rows("SELECT $2 AS b, $1 AS a", ("x", 2)) == [(2, "x")]
    with connect() as connection, connection.cursor() as cursor:
        cursor.adbc_prepare("SELECT k FROM t WHERE k = ?")
        for k in [3, 5]:
            cursor.execute("SELECT k FROM t WHERE k = ?", (k,))
            assert cursor.fetchall() == [(k,)]
    refused("SELECT ? AS v", parameters=(1, 2))
    refused("SELECT ? AS v")


def metadata():
    with connect() as connection:
        info = connection.adbc_get_info()
        assert info["vendor_name"] == "Gust", info
        objects = connection.adbc_get_objects(depth="all").read_all().to_pylist()
        catalogs = {catalog["catalog_name"]: catalog for catalog in objects}
        schemas = {schema["db_schema_name"]: schema for schema in catalogs["datafusion"]["catalog_db_schemas"]}
        tables = {table["table_name"]: table for table in schemas["public"]["db_schema_tables"]}
        columns = {column["column_name"] for column in tables["t"]["table_columns"]}
        assert columns == {"k", "name"} and tables["v"]["table_type"] == "VIEW", tables
        for depth in ["catalogs", "db_schemas", "tables"]:
            assert connection.adbc_get_objects(depth=depth).read_all().num_rows >= 1, depth
        some = connection.adbc_get_objects(depth="tables", table_name_filter="t%").read_all().to_pylist()
        assert "t" in str(some) and "'v'" not in str(some), some
        assert connection.adbc_get_table_schema("t", db_schema_filter="public").names == ["k", "name"]
        assert set(connection.adbc_get_table_types()) == {"TABLE", "VIEW"}
        with connection.cursor() as cursor:
            schema = cursor.adbc_execute_schema("SELECT k, name FROM t")
            assert schema.names == ["k", "name"], schema


def errors():
    refused("SELEC 1", "SELEC")
    refused("SELECT * FROM nowhere", "there is no table `nowhere`")
    refused("SELECT 1 / (k - 1) FROM t", "ivide by zero")
    refused("SELECT * FROM '/etc/passwd'", "outside of what this server reads")
    refused("INSERT INTO t VALUES (1, 'x')", "gust reads")
    error = refused("SELECT * FROM ordres")
    assert error.sqlstate == "42P01" or "42P01" in str(error.details), (error.sqlstate, error.details)
    refused("SELECT '" + "x" * (1 << 20) + "'", "longer than 1048576 bytes")


def many_rows():
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT value AS v FROM generate_series(1, 5000000)")
        reader = cursor.fetch_record_batch()
        count = total = 0
        for batch in reader:
            count += batch.num_rows
            total += pa.compute.sum(batch.column(0)).as_py() or 0
    assert (count, total) == (5_000_000, 5_000_000 * 5_000_001 // 2), (count, total)


def cut_streams():
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 / (value - 3000000) AS q FROM generate_series(1, 3000000)")
        count = 0
        try:
            for batch in cursor.fetch_record_batch():
                count += batch.num_rows
        except (adbc_driver_manager.Error, OSError, pa.ArrowException) as error:
            assert "ivide by zero" in str(error), error
            assert count > 0
            return
    raise AssertionError(f"{count} rows were taken for all")


ENDLESS = "SELECT count(*) AS {} FROM generate_series(1, 10000000) a, generate_series(1, 10000000) b WHERE a.value * b.value = -1"


def outcome(name):
    return rows(f"SELECT outcome FROM gust.queries WHERE statement LIKE '%AS {name} FROM%' AND statement LIKE 'SELECT count(*) AS {name}%'")


def ends_soon(is_ended):
    started = time.monotonic()
    while not is_ended():
        assert time.monotonic() - started < 5
        time.sleep(0.05)


def cancelling():
    with connect() as connection, connection.cursor() as cursor:
        timer = threading.Timer(1, cursor.adbc_cancel)
        timer.start()
        started = time.monotonic()
        try:
            cursor.execute(ENDLESS.format("cancelled_one"))
            cursor.fetchall()
        except (adbc_driver_manager.Error, OSError, pa.ArrowException):
            assert time.monotonic() - started < 10
        else:
            raise AssertionError("it was not cancelled")
    ends_soon(lambda: outcome("cancelled_one") == [("cancelled",)])
    # A reader that closes early.
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT value AS closed_early FROM generate_series(1, 100000000)")
        next(iter(cursor.fetch_record_batch()))
    sql = "SELECT outcome FROM gust.queries WHERE statement LIKE 'SELECT value AS closed_early%'"
    ends_soon(lambda: rows(sql) == [("cancelled",)])


def updates():
    with connect() as connection, connection.cursor() as cursor:
        cursor.executescript("CREATE VIEW w AS SELECT 1 AS k")
        cursor.executemany("SELECT ? AS v", [(1,), (2,)])
        try:
            cursor.executescript("CREATE VIEW w AS SELECT missing FROM t")
        except adbc_driver_manager.Error as error:
            assert "missing" in str(error), error
        else:
            raise AssertionError("there is no such column")
    # Statements of one text share a session.
    assert rows("CREATE VIEW w AS SELECT 41 + 1 AS k; SELECT k FROM w") == [(42,)]
    refused("SELECT k FROM w", "there is no table `w`")


def tokens():
    refused("SELECT 1", "the token is not known", token="gust_wrong")
    by_password = TLS | {"username": "anybody", "password": TOKEN}
    with flight.connect(URI, db_kwargs=by_password, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 AS one")
        assert cursor.fetchall() == [(1,)]
    if not TLS:
        name, value = client().authenticate_basic_token("anybody", TOKEN)
        assert (name, value) == (b"authorization", b"Bearer " + TOKEN.encode()), (name, value)
        try:
            client().authenticate_basic_token("anybody", "gust_wrong")
        except pyarrow.flight.FlightUnauthenticatedError as error:
            assert "gust_wrong" not in str(error), error
        else:
            raise AssertionError("a wrong password is taken")


# Messages of Flight SQL by hand, for what a driver does not show.


def field(number, content):
    length = len(content)
    varint = b""
    while length >= 0x80:
        varint += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + varint + bytes([length]) + content


def command(name, content):
    return field(1, b"type.googleapis.com/arrow.flight.protocol.sql." + name.encode()) + field(2, content)


def first_field(message):
    assert message[0] == 1 << 3 | 2 and message[1] < 0x80, message
    return message[2:2 + message[1]]


def client():
    return pyarrow.flight.connect(URI.replace("grpc://", "grpc+tcp://"))


def options(token=TOKEN):
    return pyarrow.flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())])


def ask(name, content, token=TOKEN):
    descriptor = pyarrow.flight.FlightDescriptor.for_command(command(name, content))
    info = client().get_flight_info(descriptor, options(token))
    return client().do_get(info.endpoints[0].ticket, options(token))


def cost():
    reader = ask("CommandStatementQuery", field(1, b"SELECT max(k) AS dear FROM t"))
    told = []
    while True:
        try:
            chunk = reader.read_chunk()
        except StopIteration:
            break
        if chunk.app_metadata:
            told.append(json.loads(chunk.app_metadata.to_pybytes()))
    assert len(told) == 1, told
    sql = "SELECT CAST(dollars AS VARCHAR) FROM gust.queries WHERE id = ?"
    assert rows(sql, (told[0]["query_id"],)) == [(told[0]["cost"]["dollars"],)], told


def handles():
    action = pyarrow.flight.Action("CreatePreparedStatement", command("ActionCreatePreparedStatementRequest", field(1, b"SELECT 7 AS v")))
    [result] = client().do_action(action, options())
    # The answer is Any: its second field is the message, whose first field is the handle.
    body = result.body.to_pybytes()
    message = body[body.index(b"ActionCreatePreparedStatementResult") + len(b"ActionCreatePreparedStatementResult"):]
    message = message[message.index(b"\x0a"):]
    handle = first_field(message)
    assert ask("CommandPreparedStatementQuery", field(1, handle)).read_all().to_pylist() == [{"v": 7}]
    for handle, token in [(handle, OTHER), (b"0" * 32, TOKEN), (b"\xff", TOKEN), (b"", TOKEN)]:
        try:
            ask("CommandPreparedStatementQuery", field(1, handle), token)
        except (KeyError, pa.ArrowException, pyarrow.flight.FlightError) as error:
            assert "no such prepared statement" in str(error) or "not of this server" in str(error), error
        else:
            raise AssertionError(f"{handle} is taken")


def keys():
    for name, columns in [("GetPrimaryKeys", 6), ("GetExportedKeys", 13), ("GetImportedKeys", 13)]:
        table = ask(f"Command{name}", field(3, b"t")).read_all()
        assert (table.num_columns, table.num_rows) == (columns, 0), (name, table.schema)
    table = ask("CommandGetCrossReference", field(3, b"t") + field(6, b"t")).read_all()
    assert (table.num_columns, table.num_rows) == (13, 0), table.schema
    types = ask("CommandGetXdbcTypeInfo", b"").read_all().to_pylist()
    assert {"BIGINT", "VARCHAR", "DECIMAL"} <= {row["type_name"] for row in types}, types


def bad_messages():
    for name, content, words in [
        ("CommandStatementQuery", field(1, b"x" * (64 << 20)), "message"),
        ("CommandStatementQuery", b"\xff\xff", ""),
        ("CommandStatementSubstraitPlan", b"", ""),
        ("CommandNothing", b"", ""),
    ]:
        try:
            ask(name, content)
        except (pa.ArrowException, pyarrow.flight.FlightError) as error:
            assert words in str(error) and "panicked" not in str(error), error
        else:
            raise AssertionError(f"{name} is taken")
        assert rows("SELECT 1 AS one") == [(1,)]


STEPS = [queries, types_are_plain, parameters, metadata, errors, many_rows, cut_streams, cancelling, updates, tokens, cost, handles, keys, bad_messages]
chosen = [step for step in STEPS if len(sys.argv) < 6 or step.__name__ in sys.argv[5:]]
for step in chosen:
    try:
        step()
    except Exception as error:
        raise RuntimeError(step.__name__) from error
print("ok", len(chosen))
