"""Asks a server over Flight SQL as notebooks do, by ADBC: flight_client.py URI TOKEN TOKEN_OF_ANOTHER CERTIFICATE [STEP]...

Every step has rows by hand. The last line of the output is `ok` and the number of steps.
"""

import datetime
import decimal
import json
import sys
import time

import adbc_driver_flightsql.dbapi as flight
import adbc_driver_manager
import pyarrow as pa
import pyarrow.compute
import pyarrow.flight
from adbc_driver_flightsql import DatabaseOptions

from stopping import ENDLESS, Stopping, ends_within_a_second

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
    # Types of Arrow that Python has no values of, and NULLs that have a type.
    table = pa.table({
        "a": pa.array([7], pa.int8()), "b": pa.array([2**63 + 1], pa.uint64()), "c": pa.array([0.5], pa.float32()),
        "d": pa.array([[1, None]], pa.list_(pa.int64())), "e": pa.array([datetime.time(23, 59, 59, 123456)], pa.time64("us")),
        "f": pa.array([datetime.datetime(2026, 2, 28, 12)], pa.timestamp("us", "UTC")), "g": pa.array([None], pa.int64()),
        "h": pa.array(["text"], pa.large_string()), "i": pa.array([{"x": 1}], pa.struct([("x", pa.int64())])),
    })
    with connect() as connection, connection.cursor() as cursor:
        names = table.column_names
        sql = "SELECT " + ", ".join(f"? AS {name}" for name in names) + ", (SELECT count(*) FROM t WHERE k = $7) AS n"
        cursor.execute(sql.replace("$7", "?"), table.append_column("j", pa.array([None], pa.int64())))
        seen = cursor.fetch_arrow_table()
    assert seen.drop(["n"]).to_pylist() == table.to_pylist() and seen["n"].to_pylist() == [0], seen
    refused("SELECT $1, ?", "numbered parameters", parameters=(1, 2))
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
        for filters, expect in [
            ({"table_types_filter": ["VIEW"], "db_schema_filter": "public"}, ["v"]),
            ({"table_name_filter": "_", "db_schema_filter": "pub%"}, ["t", "v"]),
            ({"table_name_filter": "\\_"}, []),
            ({"catalog_filter": "nowhere"}, []),
        ]:
            found = connection.adbc_get_objects(depth="tables", **filters).read_all().to_pylist()
            schemas = [schema for catalog in found for schema in catalog["catalog_db_schemas"] or []]
            tables = [table["table_name"] for schema in schemas for table in schema["db_schema_tables"] or []]
            assert sorted(tables) == expect, (filters, found)
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


def cancelled_by_driver(name):
    with connect() as connection, connection.cursor() as cursor:
        stopping = Stopping(rows, name, cursor.adbc_cancel)
        try:
            cursor.execute(ENDLESS.format(name))
            cursor.fetchall()
        except (adbc_driver_manager.Error, OSError, pa.ArrowException):
            return stopping.ended()
    raise AssertionError("it was not cancelled")


def closed_early(name):
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT value AS {name} FROM generate_series(1, 1000000000)")
        next(iter(cursor.fetch_record_batch()))
        return time.time()


def cancelling():
    ends_within_a_second(rows, cancelled_by_driver)
    ends_within_a_second(rows, closed_early)


def updates():
    with connect() as connection, connection.cursor() as cursor:
        cursor.executescript("CREATE VIEW w AS SELECT 1 AS k")
        cursor.executescript("SET datafusion.execution.batch_size = 1000")
    # An update shows no rows, and one that has some is refused.
    for act in [lambda cursor: cursor.executescript("SELECT 1"), lambda cursor: cursor.executemany("SELECT ? AS v", [(1,)])]:
        with connect() as connection, connection.cursor() as cursor:
            try:
                act(cursor)
            except adbc_driver_manager.Error as error:
                assert "has rows" in str(error), error
            else:
                raise AssertionError("an update has no rows")
    with connect() as connection, connection.cursor() as cursor:
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


def prepared(sql, token=TOKEN):
    action = pyarrow.flight.Action("CreatePreparedStatement", command("ActionCreatePreparedStatementRequest", field(1, sql)))
    [result] = client().do_action(action, options(token))
    # The answer is Any: its second field is the message, whose first field is the handle.
    body = result.body.to_pybytes()
    message = body[body.index(b"ActionCreatePreparedStatementResult") + len(b"ActionCreatePreparedStatementResult"):]
    return first_field(message[message.index(b"\x0a"):])


def put(name, handle, values, token=TOKEN):
    descriptor = pyarrow.flight.FlightDescriptor.for_command(command(name, field(1, handle)))
    writer, reader = client().do_put(descriptor, values.schema, options(token))
    with writer:
        writer.write_table(values)
        writer.done_writing()
        reader.read()


def fails(act, *words):
    try:
        act()
    except (KeyError, pa.ArrowException, pyarrow.flight.FlightError) as error:
        assert any(word in str(error) for word in words), error
        return error
    raise AssertionError(f"it succeeds, and {words} was expected")


def handles():
    handle = prepared(b"SELECT 7 AS v")
    assert ask("CommandPreparedStatementQuery", field(1, handle)).read_all().to_pylist() == [{"v": 7}]
    for wrong, token in [(handle, OTHER), (b"0" * 32, TOKEN), (b"\xff", TOKEN), (b"", TOKEN)]:
        unknown = ["no such prepared statement", "not of this server"]
        fails(lambda: ask("CommandPreparedStatementQuery", field(1, wrong), token), *unknown)
        ticket = pyarrow.flight.Ticket(command("CommandPreparedStatementQuery", field(1, wrong)))
        fails(lambda: client().do_get(ticket, options(token)).read_all(), *unknown)
        one = pa.table({"a": [1]})
        for name in ["CommandPreparedStatementQuery", "CommandPreparedStatementUpdate"]:
            fails(lambda: put(name, wrong, one, token), *unknown)
    close = pyarrow.flight.Action("ClosePreparedStatement", command("ActionClosePreparedStatementRequest", field(1, handle)))
    list(client().do_action(close, options(OTHER)))
    assert ask("CommandPreparedStatementQuery", field(1, handle)).read_all().to_pylist() == [{"v": 7}]
    list(client().do_action(close, options()))
    fails(lambda: ask("CommandPreparedStatementQuery", field(1, handle)), "no such prepared statement")
    # A ticket is about the values of its time, and gives no rows of others.
    handle = prepared(b"SELECT name FROM t WHERE k = ?")
    put("CommandPreparedStatementQuery", handle, pa.table({"k": [1]}))
    descriptor = pyarrow.flight.FlightDescriptor.for_command(command("CommandPreparedStatementQuery", field(1, handle)))
    info = client().get_flight_info(descriptor, options())
    put("CommandPreparedStatementQuery", handle, pa.table({"k": [2]}))
    fails(lambda: client().do_get(info.endpoints[0].ticket, options()).read_all(), "other values")
    assert ask("CommandPreparedStatementQuery", field(1, handle)).read_all().to_pylist() == [{"name": "n2"}]
    # Values are bounded.
    fails(lambda: put("CommandPreparedStatementQuery", handle, pa.table({"k": range(10_001)})), "rows of parameters")
    fails(lambda: put("CommandPreparedStatementUpdate", handle, pa.table({"k": range(101)})), "100 updates")
    fails(lambda: ask("CommandPreparedStatementQuery", field(1, handle)).read_all(), "1 parameters, and 0 values", "parameter", "laceholder")


def info_of(sql):
    descriptor = pyarrow.flight.FlightDescriptor.for_command(command("CommandStatementQuery", field(1, sql.encode())))
    return client().get_flight_info(descriptor, options())


def schemas():
    for name, content in [("CommandStatementQuery", field(1, b"SELECT k, name FROM t")), ("CommandGetTableTypes", b"")]:
        descriptor = pyarrow.flight.FlightDescriptor.for_command(command(name, content))
        told = client().get_schema(descriptor, options()).schema
        assert told.equals(client().get_flight_info(descriptor, options()).schema) and len(told) > 0, told
    unknown = pyarrow.flight.FlightDescriptor.for_command(command("CommandStatementQuery", field(1, b"SELECT missing FROM t")))
    fails(lambda: client().get_schema(unknown, options()), "missing")


def cancel(info, token=TOKEN):
    return list(client().do_action(pyarrow.flight.Action("CancelFlightInfo", field(1, info.serialize())), options(token)))


def rest(reader):
    """Reads to the end. With `read_all` pyarrow takes a cancelled stream for a Ctrl-C, and interrupts the program."""
    while True:
        reader.read_chunk()


def cancelled_with_rows(name):
    sql = f"SELECT value AS {name} FROM generate_series(1, 1000000000)"
    info, other = info_of(sql), info_of(sql)
    assert info.endpoints[0].ticket != other.endpoints[0].ticket, "each has a ticket of its own"
    fails(lambda: cancel(info), "nothing is under way")
    reader = client().do_get(info.endpoints[0].ticket, options())
    reader.read_chunk()
    fails(lambda: cancel(info, OTHER), "nothing is under way")
    fails(lambda: cancel(other), "nothing is under way")
    reader.read_chunk()
    began = time.time()
    [result] = cancel(info)
    assert result.body.to_pybytes() == b"\x08\x01", "it is cancelled"
    fails(lambda: rest(reader), "interrupted", "ancelled")
    return began


def cancelled_before_rows(name):
    """By the predecessor of CancelFlightInfo."""
    info = info_of(ENDLESS.format(name))
    action = pyarrow.flight.Action("CancelQuery", command("ActionCancelQueryRequest", field(1, info.serialize())))
    answers = []
    stopping = Stopping(rows, name, lambda: answers.extend(client().do_action(action, options())))
    fails(lambda: rest(client().do_get(info.endpoints[0].ticket, options())), "interrupted", "ancelled")
    began = stopping.ended()
    assert len(answers) == 1, answers
    return began


def cancelled_by_info():
    ends_within_a_second(rows, cancelled_with_rows)
    ends_within_a_second(rows, cancelled_before_rows)


def polled():
    """The driver polls where it is asked for partitions as they come."""
    def partitions(cursor, sql):
        statement = cursor.adbc_statement
        statement.set_options(**{"adbc.statement.exec.incremental": "true"})
        statement.set_sql_query(sql)
        found = []
        while True:
            more, _, _ = statement.execute_partitions()
            if not more:
                return found
            found += more

    with connect() as connection, connection.cursor() as cursor:
        [only] = partitions(cursor, "SELECT k, name FROM t WHERE k < 4 ORDER BY k")
        for _ in range(2):
            cursor.adbc_read_partition(only)
            assert cursor.fetchall() == [(1, "n1"), (2, "n2"), (3, "n3")], "its rows are kept"
    with connect() as connection, connection.cursor() as cursor:
        slow = "SELECT count(*) AS polled FROM generate_series(1, 30000) a, generate_series(1, 30000) b WHERE a.value * b.value % 7 = 3"
        [only] = partitions(cursor, slow)
        cursor.adbc_read_partition(only)
        [(count,)] = cursor.fetchall()
        assert count > 0, count
        with connect(OTHER) as others, others.cursor() as cursor:
            try:
                cursor.adbc_read_partition(only)
                cursor.fetchall()
            except (adbc_driver_manager.Error, OSError, pa.ArrowException) as error:
                assert "no such statement" in str(error), error
            else:
                raise AssertionError("the rows are another's")
    with connect() as connection, connection.cursor() as cursor:
        try:
            partitions(cursor, "SELECT 1 / (k - 1) FROM t")
        except adbc_driver_manager.Error as error:
            assert "ivide by zero" in str(error), error
        else:
            raise AssertionError("it has failed")


def sessions():
    with_cookie = {"adbc.flight.sql.rpc.with_cookie_middleware": "true"}
    known = TLS | {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {TOKEN}"} | with_cookie
    with flight.connect(URI, db_kwargs=known, autocommit=True) as connection:
        connection.adbc_current_db_schema = "gust"
        assert connection.adbc_current_db_schema == "gust"
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM settings")
            assert cursor.fetchall()[0][0] > 0
        try:
            connection.adbc_current_catalog = "nowhere"
        except adbc_driver_manager.Error as error:
            assert "nowhere" in str(error) or "nvalid" in str(error), error
        else:
            raise AssertionError("there is no such catalog")
    refused("SELECT count(*) FROM settings", "there is no table `settings`")


TEXT, NUMBER, RULE = pa.string(), pa.int32(), pa.uint8()
OF_KEYS = [("pk_catalog_name", TEXT), ("pk_db_schema_name", TEXT), ("pk_table_name", TEXT), ("pk_column_name", TEXT),
           ("fk_catalog_name", TEXT), ("fk_db_schema_name", TEXT), ("fk_table_name", TEXT), ("fk_column_name", TEXT),
           ("key_sequence", NUMBER), ("fk_key_name", TEXT), ("pk_key_name", TEXT), ("update_rule", RULE), ("delete_rule", RULE)]
OF_PRIMARY = [("catalog_name", TEXT), ("db_schema_name", TEXT), ("table_name", TEXT), ("column_name", TEXT), ("key_name", TEXT),
              ("key_sequence", NUMBER)]


def keys():
    of_table = field(3, b"t")
    for name, content, columns in [("GetPrimaryKeys", of_table, OF_PRIMARY), ("GetExportedKeys", of_table, OF_KEYS),
                                   ("GetImportedKeys", of_table, OF_KEYS), ("GetCrossReference", of_table + field(6, b"t"), OF_KEYS)]:
        table = ask(f"Command{name}", content).read_all()
        assert [(column.name, column.type) for column in table.schema] == columns and table.num_rows == 0, (name, table.schema)
    types = ask("CommandGetXdbcTypeInfo", b"").read_all().to_pylist()
    assert {"BIGINT", "VARCHAR", "DECIMAL"} <= {row["type_name"] for row in types}, types
    abilities = {row["info_name"]: row["value"] for row in ask("CommandGetSqlInfo", b"").read_all().to_pylist()}
    # All that a server without Substrait and bulk loads has.
    wanted = {*range(0, 6), *range(8, 12), 101, *range(500, 577)} - {517, 568, 569, 570, 571}
    assert set(abilities) == wanted, set(abilities) ^ wanted
    assert abilities[0] == "Gust" and abilities[3] is True and abilities[507] == 0 and abilities[557] == 1 << 20, abilities


def columns_are_announced():
    for sql in ["SELECT [1, NULL] AS v", "SELECT arrow_cast([1], 'LargeList(Int64)') AS v", "SELECT {'a': ['x']} AS v",
                "SELECT [{'a': 1}] AS v", "SELECT MAP {'a': [1]} AS v", "SELECT arrow_cast('x', 'Utf8View') AS v, NULL AS n",
                "SELECT k, name, [name] AS l FROM t LIMIT 1", "SELECT arrow_cast([arrow_cast('x', 'Utf8View')], 'FixedSizeList(1, Utf8View)') AS v"]:
        descriptor = pyarrow.flight.FlightDescriptor.for_command(command("CommandStatementQuery", field(1, sql.encode())))
        info = client().get_flight_info(descriptor, options())
        table = client().do_get(info.endpoints[0].ticket, options()).read_all()
        assert info.schema.equals(table.schema, check_metadata=True) and table.num_rows == 1, (sql, info.schema, table.schema)
        assert len(rows(sql)) == 1


def bad_messages():
    long = b"%" * 2_000
    many = b"".join(field(4, b"VIEW") for _ in range(101))
    for name, content, words in [
        ("CommandStatementQuery", field(1, b"x" * (64 << 20)), ["message", "RST_STREAM", "reset"]),
        ("CommandStatementQuery", b"\xff\xff", ["decode", "ecoding", "parse"]),
        ("CommandStatementSubstraitPlan", b"", ["no default implementation", "is invalid"]),
        ("CommandNothing", b"", ["Nothing"]),
        ("CommandGetTables", field(3, long), ["more than 1024 bytes"]),
        ("CommandGetTables", field(1, long), ["more than 1024 bytes"]),
        ("CommandGetTables", many, ["100 types"]),
        ("CommandGetDbSchemas", field(2, long), ["more than 1024 bytes"]),
        ("CommandGetSqlInfo", field(1, b"\0" * 2_000), ["1000 abilities"]),
    ]:
        error = fails(lambda: ask(name, content), *words)
        assert "panicked" not in str(error), error
        ticket = pyarrow.flight.Ticket(command(name, content))
        if len(content) < 1 << 20 and name != "CommandStatementQuery":
            fails(lambda: client().do_get(ticket, options()).read_all(), *words)
        assert rows("SELECT 1 AS one") == [(1,)]
    # Nobody without a token, on no call.
    descriptor = pyarrow.flight.FlightDescriptor.for_command(command("CommandGetCatalogs", b""))
    ticket = pyarrow.flight.Ticket(command("CommandGetCatalogs", b""))
    for call in [lambda: client().get_flight_info(descriptor), lambda: client().do_get(ticket).read_all(),
                 lambda: list(client().do_action(pyarrow.flight.Action("CloseSession", b""))), lambda: list(client().list_actions())]:
        error = fails(call, "no token")
        assert isinstance(error, pyarrow.flight.FlightUnauthenticatedError), error
    foreign = pyarrow.flight.FlightCallOptions(headers=[(b"authorization", b"Bearer " + TOKEN.encode()), (b"origin", b"http://evil.example")])
    fails(lambda: client().get_flight_info(descriptor, foreign), "another origin")


STEPS = [queries, types_are_plain, parameters, metadata, errors, many_rows, cut_streams, cancelling, updates, tokens, cost, handles, keys, columns_are_announced, bad_messages, schemas, cancelled_by_info, polled, sessions]
chosen = [step for step in STEPS if len(sys.argv) < 6 or step.__name__ in sys.argv[5:]]
for step in chosen:
    try:
        step()
    except Exception as error:
        raise RuntimeError(step.__name__) from error
print("ok", len(chosen))
