"""Asks one engine for the rows of the matrix.

    judge.py JUDGE < request.json

JUDGE is spark, pyiceberg, duckdb, chdb, rust or gust (whose program is in the variable GUST). The request lists tables, each
with its name, its folder, its metadata file and its asks. The answers are lines of JSON on stdout, one as soon as it is known, so that an engine which
takes its process down has answered what it could: {"table", "begins": true} before a table, {"table", "ask", "columns", "rows"}
or {"table", "ask", "error"} for each ask.

Spark and DuckDB run the SQL over their own scan. The others give the whole table, and DuckDB's engine runs the SQL over it. Where pyiceberg
understands the condition of an ask, Arrow's kernels leave out rows by it in DuckDB's place: the answer says "filter": "arrow".
A version (`t FOR VERSION AS OF 5`, `'tag'`, `FOR TIMESTAMP AS OF TIMESTAMP '… UTC'`) and a metadata table (`"t$files"`) of an ask
are put into the words of each judge; one that has none refuses the ask.
Cells are plain JSON: see `plain`.
"""

import datetime
import decimal
import gzip
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid


def point(value: datetime.datetime, has_zone: bool) -> str:
    """A point of time in UTC without zeros at the end of its fraction; a Z marks the type with a zone."""
    text = value.replace(tzinfo=None).isoformat()
    return (text.rstrip("0").rstrip(".") if "." in text else text) + ("Z" if has_zone else "")


def plain(value: object, has_zone: bool = False) -> object:
    """A cell as JSON: decimals, dates and times are texts, bytes and UUIDs hexadecimal, maps lists of pairs, and NaN a text."""
    match value:
        case float() if math.isnan(value):
            return "NaN"
        case float() if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        case decimal.Decimal():
            # DuckDB's sums of integers are decimals without a fraction.
            return format(value, "f") if value.as_tuple().exponent else int(value)
        case datetime.datetime():
            zone = value.tzinfo
            return point(value.astimezone(datetime.timezone.utc) if zone else value, has_zone or zone is not None)
        case datetime.date():
            return value.isoformat()
        case datetime.time():
            text = value.isoformat()
            return text.rstrip("0").rstrip(".") if "." in text else text
        case bytes() | bytearray():
            return bytes(value).hex()
        case uuid.UUID():
            return value.hex
        case dict():
            return {key: plain(item, has_zone) for key, item in value.items()}
        case list():
            return [plain(item, has_zone) for item in value]
        case tuple():
            return [plain(item, has_zone) for item in value]
    return value


def say(table: dict, **told: object) -> None:
    print(json.dumps({"table": table["name"], **told}), flush=True)


def answer(table: dict, run) -> None:
    """Runs the asks of a table by `run`, which returns names and rows."""
    for number, ask in enumerate(table["asks"]):
        try:
            columns, rows, *by = run(ask)
            say(table, ask=number, columns=columns, rows=rows, **{"filter": by[0]} if by else {})
        except Exception as error:
            say(table, ask=number, error=f"{type(error).__name__}: {error}"[:500])


VERSION = re.compile(r""" FOR (VERSION|TIMESTAMP) AS OF (?:TIMESTAMP )?('[^']*'|-?\d+)""")
FACTS = re.compile(r'"(\w+)\$(\w+)"')


def parts(sql: str) -> tuple[str, tuple[str, object] | None, str | None]:
    """The ask over the whole table, the version of its table, and the name of the metadata table that it asks for.

    A version is ("id", a number), ("ref", a name) or ("time", milliseconds)."""
    version = None
    if found := VERSION.search(sql):
        kind, value = found.groups()
        if kind == "TIMESTAMP":
            time_of = datetime.datetime.fromisoformat(value.strip("'").replace(" UTC", "+00:00"))
            version = "time", round(time_of.timestamp() * 1000)
        else:
            version = ("ref", value.strip("'")) if value.startswith("'") else ("id", int(value))
    facts = FACTS.search(sql)
    return VERSION.sub("", sql), version, facts and facts.group(2)


def of_arrow(result) -> tuple[list[str], list[list[object]]]:
    columns = [[plain(cell) for cell in column.to_pylist()] for column in result.columns]
    return result.column_names, [list(row) for row in zip(*columns)]


# Spark.


def spark_cell(value: object, kind) -> object:
    from pyspark.sql import types

    if value is None:
        return None
    match kind:
        case types.StructType():
            return {part.name: spark_cell(value[part.name], part.dataType) for part in kind.fields}
        case types.ArrayType():
            return [spark_cell(item, kind.elementType) for item in value]
        case types.MapType():
            return [[spark_cell(key, kind.keyType), spark_cell(item, kind.valueType)] for key, item in value.items()]
        case types.TimestampType():
            return point(value, True)
    return plain(value)


def spark_judge(tables: list[dict]) -> None:
    import spark

    session = spark.session()
    for table in tables:
        say(table, begins=True)
        try:
            session.read.format("iceberg").load(table["folder"]).createOrReplaceTempView(table["name"])
        except Exception as error:
            for number in range(len(table["asks"])):
                say(table, ask=number, error=str(error)[:500])
            continue

        def run(ask):
            text = ask.get("spark_sql", ask["sql"])
            if VERSION.search(text) or FACTS.search(text):
                # Spark finds versions by the catalog's name, and facts behind the table's.
                text = FACTS.sub(r"m.\1.\2", re.sub(rf"\b(FROM|JOIN) {table['name']}\b", rf"\1 m.{table['name']}", text))
                text = VERSION.sub(lambda found: f" {found[1]} AS OF {found[2].replace(' UTC', '')}", text)
            frame = session.sql(text)
            kinds = [part.dataType for part in frame.schema.fields]
            return frame.columns, [[spark_cell(cell, kind) for cell, kind in zip(row, kinds)] for row in frame.collect()]

        answer(table, run)


# DuckDB, and those over whose tables it runs the SQL.


def connect():
    import duckdb

    connection = duckdb.connect(config={"autoinstall_known_extensions": False})
    connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
    return connection


def duckdb_judge(tables: list[dict]) -> None:
    import duckdb
    import duckdb_extension_avro
    import duckdb_extension_iceberg

    for table in tables:
        say(table, begins=True)

        def run(ask):
            # One failure of its Avro reader invalidates a whole database.
            connection = connect()
            for package, name in ((duckdb_extension_avro, "avro"), (duckdb_extension_iceberg, "iceberg")):
                folder = os.path.dirname(package.__file__)
                connection.execute(f"LOAD '{folder}/extensions/v{duckdb.__version__}/{name}.duckdb_extension'")
            text, version, facts = parts(ask["sql"])
            match version:
                case None:
                    at = ""
                case "id", number:
                    at = f", snapshot_from_id => {number}"
                case "time", milliseconds:
                    at = f", snapshot_from_timestamp => TIMESTAMP '{datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.timezone.utc):%F %T.%f}'"
                case _:
                    raise ValueError("DuckDB's scan knows no names of snapshots")
            if facts:
                raise ValueError("DuckDB has no such table")
            connection.execute(f"CREATE OR REPLACE VIEW {table['name']} AS SELECT * FROM iceberg_scan('{table['metadata']}'{at})")
            return of_arrow(connection.execute(text).to_arrow_table())

        answer(table, run)


CONDITION = re.compile(r"(SELECT .+ FROM \w+) WHERE (.+?)((?: GROUP BY .+)?(?: ORDER BY .+)?)")


def over_whole_tables(tables: list[dict], read, read_special=None, filtered=None) -> None:
    """`read_special` gives the table at a version, or what is told about it. `filtered` gives those of its rows that meet a condition,
    or None where it does not understand it."""
    connection = connect()
    for table in tables:
        say(table, begins=True)
        refused = None
        try:
            rows = read(table)
            connection.execute(f"CREATE OR REPLACE TABLE {table['name']} AS SELECT * FROM rows")
        except Exception as error:
            refused = error

        def run(ask):
            text, version, facts = parts(ask["sql"])
            if refused and facts is None:
                raise refused
            if version is None and facts is None:
                found = CONDITION.fullmatch(text) if filtered and text.count("SELECT") == 1 else None
                left_rows = filtered(table, rows, found[2]) if found else None
                if left_rows is None:
                    return of_arrow(connection.execute(text).to_arrow_table())
                own = connect()
                own.execute(f"CREATE TABLE {table['name']} AS SELECT * FROM left_rows")
                return *of_arrow(own.execute(found[1] + found[3]).to_arrow_table()), "arrow"
            if read_special is None:
                raise ValueError("this judge reads tables as they are now")
            own = connect()
            special = read_special(table, version, facts)
            name = f"{table['name']}${facts}" if facts else table["name"]
            own.execute(f'CREATE TABLE "{name}" AS SELECT * FROM special')
            return of_arrow(own.execute(text).to_arrow_table())

        answer(table, run)


def pyiceberg_judge(tables: list[dict]) -> None:
    import pyarrow
    import pyarrow.compute
    from pyiceberg.expressions import parser
    from pyiceberg.expressions.visitors import bind
    from pyiceberg.io.pyarrow import expression_to_pyarrow
    from pyiceberg.table import StaticTable

    def load(table):
        return StaticTable.from_metadata(f"file://{table['metadata']}")

    def special(table, version, facts):
        loaded = load(table)
        match version:
            case None:
                snapshot = None
            case "id", number:
                snapshot = number
            case "ref", name:
                snapshot = loaded.snapshot_by_name(name).snapshot_id
            case _, milliseconds:
                snapshot = loaded.snapshot_as_of_timestamp(milliseconds).snapshot_id
        if facts is None:
            return loaded.scan(snapshot_id=snapshot).to_arrow()
        inspect = getattr(loaded.inspect, facts)
        told = inspect(snapshot) if facts in ("files", "partitions") else inspect()
        # A table without partitions has a struct without fields, which DuckDB cannot hold.
        told = told.select([column.name for column in told.schema if not pyarrow.types.is_struct(column.type) or column.type.num_fields])
        # PyIceberg's points of time are in UTC, and do not say so.
        for position, column in enumerate(told.schema):
            if pyarrow.types.is_timestamp(column.type):
                told = told.set_column(position, column.name, told[column.name].cast(pyarrow.timestamp("ms", "UTC")))
        return told

    def filtered(table, rows, condition):
        try:
            kept = expression_to_pyarrow(bind(load(table).schema(), parser.parse(condition), case_sensitive=True))
        except Exception:
            return None
        # SQL has an order of NaN, and Arrow none.
        floats = [column.name for column in rows.schema if pyarrow.types.is_floating(column.type) and re.search(rf"\b{column.name}\b", condition)]
        if any(pyarrow.compute.any(pyarrow.compute.is_nan(rows[name])).as_py() for name in floats):
            return None
        return rows.filter(kept)

    over_whole_tables(tables, lambda table: load(table).scan().to_arrow(), special, filtered)


def kinds(table: dict) -> dict[str, object]:
    """The types of the current columns, by their names."""
    with open(table["metadata"], "rb") as file:
        data = file.read()
    metadata = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    schemas = metadata.get("schemas") or [metadata["schema"]]
    current = next(schema for schema in schemas if schema.get("schema-id") == metadata.get("current-schema-id"))
    return {column["name"]: column["type"] for column in current["fields"]}


def chdb_judge(tables: list[dict]) -> None:
    import chdb
    import pyarrow

    # ClickHouse reads files below its working directory only.
    os.chdir("/tmp")

    def read(table):
        answer = chdb.query(f"SELECT * FROM icebergLocal('{table['folder']}/')", "ArrowStream")
        rows = pyarrow.ipc.open_stream(answer.bytes()).read_all()
        # ClickHouse's Arrow gives every point of time a zone, and has bytes as texts.
        as_told = {"timestamp": pyarrow.timestamp("us"), "binary": pyarrow.binary()}
        for position, name in enumerate(rows.column_names):
            kind = kinds(table).get(name)
            if isinstance(kind, str) and kind in as_told:
                rows = rows.set_column(position, name, rows[name].cast(as_told[kind]))
        return rows

    over_whole_tables(tables, read)


def rust_judge(tables: list[dict]) -> None:
    """iceberg-rust, through DataFusion."""
    from datafusion import SessionContext
    from pyiceberg_core.datafusion import IcebergDataFusionTable

    def read(table):
        source = IcebergDataFusionTable(identifier=["m", table["name"]], metadata_location=f"file://{table['metadata']}", file_io_properties={})
        context = SessionContext()
        context.register_table(table["name"], source)
        return context.sql(f"SELECT * FROM {table['name']}").to_arrow_table()

    over_whole_tables(tables, read)


def gust_judge(tables: list[dict]) -> None:
    import pyarrow

    for table in tables:
        say(table, begins=True)

        def run(ask):
            create = f"CREATE EXTERNAL TABLE {table['name']} STORED AS ICEBERG LOCATION '{table['folder']}'"
            with tempfile.NamedTemporaryFile("w", suffix=".sql") as setup:
                setup.write(create)
                setup.flush()
                command = [os.environ["GUST"], "query", "--on", "local", "--format", "arrow", "--setup", setup.name, ask["sql"]]
                done = subprocess.run(command, capture_output=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr.decode().partition("error: ")[2].strip())
            with pyarrow.ipc.open_stream(done.stdout) as reader:
                return of_arrow(reader.read_all())

        answer(table, run)


JUDGES = {"spark": spark_judge, "pyiceberg": pyiceberg_judge, "duckdb": duckdb_judge, "chdb": chdb_judge, "rust": rust_judge, "gust": gust_judge}


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in JUDGES:
        sys.exit(__doc__)
    os.environ["TZ"] = "UTC"
    time.tzset()
    JUDGES[sys.argv[1]](json.load(sys.stdin)["tables"])


if __name__ == "__main__":
    main()
