"""Writes nine files of odd values, as bare Parquet and as Iceberg tables, and answers queries over them with DuckDB.

    odd_values.py FOLDER

FOLDER/queries.json is a list of statements. FOLDER/bare/<table>/ gets the files, FOLDER/catalog.db and FOLDER/warehouse the
same rows as the Iceberg tables `t.<table>`; the answer to the statement at position N becomes FOLDER/answers/N.arrow, an
Arrow IPC file, or FOLDER/answers/N.error, a message.

Three tables of the same columns: `a` of four files, `b` of three, one of which has no rows, `c` of two, one of which has
nothing but NULL. `id` is what tells rows apart.
"""

import argparse
import datetime
import decimal
import pathlib
import random

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.transforms import BucketTransform, IdentityTransform

from duckdb_answers import answer

SCHEMA = pa.schema([
    ("id", pa.int64()),
    ("k", pa.int32()),
    ("i", pa.int32()),
    ("l", pa.int64()),
    ("f", pa.float64()),
    ("r", pa.float32()),
    ("g", pa.float64()),
    ("d", pa.decimal128(12, 2)),
    ("w", pa.decimal128(38, 6)),
    ("s", pa.string()),
    ("b", pa.bool_()),
    ("t", pa.date32()),
    ("z", pa.timestamp("us")),
])

NAN, INFINITY = float("nan"), float("inf")
REALS = [NAN, INFINITY, -INFINITY, 0.0, -0.0, 1.5, -1.5, 1.0]
VALUES = {
    "k": [0, 1, 2, 3, 4],
    "i": [2**31 - 1, -(2**31), 0, 1, -1, 7],
    "l": [2**63 - 1, -(2**63), 0, 1, -1, 2**53 + 1, 2**53],
    "f": [*REALS, 1.7976931348623157e308, -1.7976931348623157e308, 5e-324],
    "r": [*REALS, 3.4028234663852886e38, 1.401298464324817e-45],
    # Sums of these are exact in any order.
    "g": [*REALS, 0.25, -0.25, 1024.5, 3.0, 3.0],
    "d": [decimal.Decimal(x) for x in ("9999999999.99", "-9999999999.99", "0.00", "0.01", "-0.01", "1.50", "2.00")],
    "w": [decimal.Decimal(x) for x in ("9" * 32 + ".999999", "-" + "9" * 32 + ".999999", "0.000000", "0.000001", "1.500000")],
    "s": ["", " ", "a", "A", "b", "é", "NULL", "a%b", "漢字", "z" * 300],
    "b": [True, False],
    "t": [datetime.date(1, 1, 1), datetime.date(9999, 12, 31), datetime.date(1969, 12, 31), datetime.date(1970, 1, 1),
          datetime.date(2024, 2, 29), datetime.date(2024, 3, 1)],
    "z": [datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31, 23, 59, 59, 999999),
          datetime.datetime(1969, 12, 31, 23, 59, 59, 999999), datetime.datetime(1970, 1, 1),
          datetime.datetime(2024, 2, 29, 12, 34, 56, 789000), datetime.datetime(2024, 2, 29)],
}

# How many rows the files of each table have.
FILES = {"a": [17, 9, 23, 4], "b": [13, 0, 8], "c": [6, 7]}


def tables() -> dict[str, list[pa.Table]]:
    chance = random.Random(20_261_128)
    made = {}
    for name, sizes in FILES.items():
        numbers = iter(range(1, 1000))
        made[name] = []
        for size in sizes:
            rows = [{"id": next(numbers)} for _ in range(size)]
            for row in rows:
                for column, values in VALUES.items():
                    row[column] = None if chance.random() < 0.15 else chance.choice(values)
            made[name].append(pa.Table.from_pylist(rows, schema=SCHEMA))
    nothing = made["c"][1]
    for position, column in enumerate(SCHEMA.names[1:], start=1):
        nothing = nothing.set_column(position, SCHEMA.field(column), pa.nulls(len(nothing), SCHEMA.field(column).type))
    made["c"][1] = nothing
    return made


def write(folder: pathlib.Path, made: dict[str, list[pa.Table]]) -> None:
    catalog = SqlCatalog("lake", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}/warehouse")
    catalog.create_namespace("t")
    partitions = {"a": None, "b": IdentityTransform(), "c": BucketTransform(3)}
    for name, parts in made.items():
        (folder / "bare" / name).mkdir(parents=True)
        table = catalog.create_table(f"t.{name}", schema=SCHEMA)
        if partitions[name]:
            with table.update_spec() as update:
                update.add_field("k", partitions[name], "part")
        for number, rows in enumerate(parts):
            # Some files have small row groups, and some no statistics.
            options = {"row_group_size": 5} if number % 2 == 0 else {"write_statistics": number == 1}
            pq.write_table(rows, folder / "bare" / name / f"{number}.parquet", **options)
            if len(rows):
                table.append(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder.absolute()
    write(folder, tables())
    connection = duckdb.connect(config={"threads": 1})
    # Gust's order, which the dialect page has.
    connection.execute("SET default_null_order = 'postgres'")
    for name in FILES:
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM read_parquet('{folder}/bare/{name}/*.parquet')")
    answer(connection, folder)


if __name__ == "__main__":
    main()
