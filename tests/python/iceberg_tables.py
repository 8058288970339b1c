"""Writes Iceberg tables with PyIceberg, and answers queries over them as the judge of Gust's answers.

    iceberg_tables.py FOLDER

FOLDER is new: it becomes a SQLite catalog `lake` in FOLDER/catalog.db with the namespace `t`, whose tables lie in
FOLDER/warehouse/<table>. FOLDER/queries holds files with one SQL statement each; the result of <name>.sql becomes
FOLDER/queries/<name>.arrow, an Arrow IPC file. PyIceberg reads whole tables, without pruning anything, and DuckDB runs
the statement over their rows.
"""

import argparse
import datetime
import decimal
import pathlib

import duckdb
import pyarrow
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.transforms import (
    BucketTransform,
    DayTransform,
    HourTransform,
    IdentityTransform,
    MonthTransform,
    TruncateTransform,
)
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    IntegerType,
    LongType,
    NestedField,
    StringType,
    TimestampType,
    TimestamptzType,
)

APPENDS = 3
ROWS_PER_APPEND = 40

COLUMNS = {
    "id": LongType(),
    "n": IntegerType(),
    "big": LongType(),
    "name": StringType(),
    "kind": StringType(),
    "ts": TimestampType(),
    "seen": TimestamptzType(),
    "day": DateType(),
    "price": DecimalType(9, 2),
    "ratio": DoubleType(),
    "ok": BooleanType(),
    "bytes": BinaryType(),
}

# Each table holds the same rows under another partition spec. Some before 1970, some in partitions whose folder names
# have to be escaped.
PARTITIONS = {
    "plain": {},
    "by_day": {"ts": DayTransform(), "kind": IdentityTransform()},
    "by_bucket": {"big": BucketTransform(4), "name": BucketTransform(3)},
    "by_bucket_more": {"price": BucketTransform(4), "ts": BucketTransform(3)},
    "by_truncate": {"name": TruncateTransform(2), "n": TruncateTransform(10)},
    "by_truncate_more": {"price": TruncateTransform(1000), "big": TruncateTransform(1_000_000_000)},
    "by_time": {"day": MonthTransform(), "seen": HourTransform()},
    "by_identity": {"n": IdentityTransform()},
    "by_identity_more": {"day": IdentityTransform(), "ok": IdentityTransform()},
}

NAMES = ["alpha", "alps", "beta", "a", "é漢字", "", "al%", None]
KINDS = ["red/blue", "plain", "a b%20", None]


def row(i: int) -> dict:
    """The row with the number i. Every tenth value of a column is NULL, but for the id."""
    day = (i * 7) % 5 - 2
    values = {
        "n": i % 9 * 5 - 20,
        "big": (i * 7919) % 11 * (1 << 39) - (1 << 41),
        "name": NAMES[i % len(NAMES)],
        "kind": KINDS[i // 3 % len(KINDS)],
        "ts": datetime.datetime(1970, 1, 1, 1, 30) + datetime.timedelta(days=day, microseconds=-i),
        "seen": datetime.datetime(2024, 2, 29, 22 + i % 2, 59, 59, i, datetime.timezone.utc),
        "day": datetime.date(2024, 1, 30) + datetime.timedelta(days=day),
        "price": decimal.Decimal(i % 7 * 625 - 1875) / 100,
        "ratio": [0.5, -1.25, float("nan"), 1e300][i % 4],
        "ok": i % 3 == 0,
        "bytes": bytes([i % 256, 0, 255]),
    }
    nulls = {column: None for number, column in enumerate(values) if (i + number) % 10 == 0}
    return {"id": i, **values, **nulls}


def schema(columns: dict) -> Schema:
    return Schema(*(NestedField(i, name, kind, required=name == "id") for i, (name, kind) in enumerate(columns.items(), 1)))


def append(table: Table, rows: list[dict]) -> None:
    table.append(pyarrow.Table.from_pylist(rows, schema=schema_to_pyarrow(table.schema(), include_field_ids=False)))


class Lake:
    def __init__(self, folder: pathlib.Path) -> None:
        self.warehouse = f"file://{folder / 'warehouse'}"
        self.catalog = SqlCatalog("lake", uri=f"sqlite:///{folder / 'catalog.db'}", warehouse=self.warehouse)
        self.catalog.create_namespace("t")

    def create(self, name: str, columns: dict, partitions: dict) -> Table:
        ids = {column: i for i, column in enumerate(columns, 1)}
        fields = (
            PartitionField(source_id=ids[column], field_id=1000 + i, transform=transform, name=f"p{i}_{column}")
            for i, (column, transform) in enumerate(partitions.items())
        )
        location = f"{self.warehouse}/{name}"
        return self.catalog.create_table(f"t.{name}", schema(columns), location, PartitionSpec(*fields))


def write_partitioned(lake: Lake) -> None:
    for name, partitions in PARTITIONS.items():
        table = lake.create(name, COLUMNS, partitions)
        for number in range(APPENDS):
            append(table, [row(number * ROWS_PER_APPEND + i) for i in range(ROWS_PER_APPEND)])


def write_evolved(lake: Lake) -> None:
    """Columns that were renamed, swapped, dropped and added again under the same name, added, and promoted."""
    text, integer = StringType(), IntegerType()
    columns = {"id": LongType(), "old": text, "gone": text, "small": integer, "ours": text, "theirs": text}
    table = lake.create("evolved", columns, {})
    append(
        table,
        [
            {"id": i, "old": f"a{i}", "gone": f"gone{i}", "small": i * 1000, "ours": f"l{i}", "theirs": f"r{i}"}
            for i in range(10)
        ],
    )
    with table.update_schema() as update:
        update.rename_column("old", "fresh")
        update.rename_column("ours", "swapping")
        update.delete_column("gone")
        update.update_column("small", field_type=LongType())
    with table.update_schema() as update:
        update.rename_column("theirs", "ours")
        update.add_column("gone", text)
        update.add_column("extra", integer)
    with table.update_schema() as update:
        update.rename_column("swapping", "theirs")
    append(
        table,
        [
            {
                "id": i,
                "fresh": f"b{i}" if i % 4 else None,
                "gone": f"again{i}",
                "small": i * 10_000_000_000,
                "ours": f"r{i}",
                "theirs": f"l{i}",
                "extra": i if i % 2 else None,
            }
            for i in range(10, 20)
        ],
    )


def write_respecified(lake: Lake) -> None:
    """Files of two partition specs, of one table."""
    columns = {"id": LongType(), "n": IntegerType(), "name": StringType()}
    table = lake.create("respecified", columns, {"n": IdentityTransform()})
    append(table, [{"id": i, "n": i % 3 if i % 5 else None, "name": NAMES[i % len(NAMES)]} for i in range(20)])
    with table.update_spec() as update:
        update.remove_field("p0_n")
        update.add_field("name", TruncateTransform(1), "initial")
    append(table, [{"id": i, "n": i % 3, "name": NAMES[i % len(NAMES)]} for i in range(20, 40)])


def write_rewritten(lake: Lake) -> None:
    """Rows deleted by writing files again, and a file deleted whole."""
    table = lake.create("rewritten", {"id": LongType(), "n": IntegerType()}, {})
    for start in (0, 10, 20):
        append(table, [{"id": i, "n": i % 4} for i in range(start, start + 10)])
    table.delete("id < 5")
    table.delete("id >= 10 and id < 20")


def write_to_be_damaged(lake: Lake) -> None:
    """One more row with each file, so that no two have one size."""
    for name in ("vanished", "overwritten", "shortened"):
        table = lake.create(name, {"id": LongType(), "name": StringType()}, {})
        for number in (1, 2, 3):
            append(table, [{"id": number * 1000 + i, "name": f"{number}" * (i + 1)} for i in range(number * 50)])


def judge(lake: Lake, queries: pathlib.Path) -> None:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for _, name in lake.catalog.list_tables("t"):
        rows = lake.catalog.load_table(f"t.{name}").scan().to_arrow()
        # Copied: over Arrow's own data DuckDB has Arrow compare, to which NaN is not the largest number.
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM rows")
    for query in sorted(queries.glob("*.sql")):
        result = connection.execute(query.read_text()).to_arrow_table()
        with pyarrow.ipc.new_file(query.with_suffix(".arrow"), result.schema) as writer:
            writer.write_table(result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder.absolute()
    lake = Lake(folder)
    write_partitioned(lake)
    write_evolved(lake)
    write_respecified(lake)
    write_rewritten(lake)
    write_to_be_damaged(lake)
    lake.create("empty", COLUMNS, {"n": IdentityTransform()})
    judge(lake, folder / "queries")


if __name__ == "__main__":
    main()
