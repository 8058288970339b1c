"""Writes Iceberg tables of the odd kind with PyIceberg: evolved below the top, partitioned after the fact, with odd names, with
NaN, and with columns that stand in the partition metadata only.

    iceberg_odd_tables.py FOLDER

FOLDER is new: it becomes a SQLite catalog `lake` in FOLDER/catalog.db with the namespace `t`, whose tables lie in
FOLDER/warehouse/<table>. What PyIceberg itself reads of each table becomes FOLDER/rows/<table>.ndjson, one row a line.
"""

import argparse
import datetime
import json
import math
import pathlib

import pyarrow
import pyarrow.parquet
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.transforms import BucketTransform, IdentityTransform, TruncateTransform
from pyiceberg.typedef import Record
from pyiceberg.types import (
    DateType,
    DoubleType,
    FloatType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    NestedField,
    StringType,
    StructType,
)

INT, LONG, TEXT = IntegerType(), LongType(), StringType()
NAN = float("nan")


def fields(first_id: int, **types) -> list[NestedField]:
    return [NestedField(first_id + i, name, kind, required=False) for i, (name, kind) in enumerate(types.items())]


def struct(first_id: int, **types) -> StructType:
    return StructType(*fields(first_id, **types))


class Lake:
    def __init__(self, folder: pathlib.Path) -> None:
        self.warehouse = f"file://{folder / 'warehouse'}"
        self.catalog = SqlCatalog("lake", uri=f"sqlite:///{folder / 'catalog.db'}", warehouse=self.warehouse)
        self.catalog.create_namespace("t")

    def create(self, name: str, columns: list[NestedField], *partitions: PartitionField) -> Table:
        location = f"{self.warehouse}/{name}"
        return self.catalog.create_table(f"t.{name}", Schema(*columns), location, PartitionSpec(*partitions))


def append(table: Table, rows: list[dict]) -> None:
    schema = schema_to_pyarrow(table.schema(), include_field_ids=False)
    table.append(pyarrow.Table.from_pylist(rows, schema=schema))


def write_nested(lake: Lake) -> None:
    """Fields dropped, added, renamed, moved and promoted below structs, lists and maps."""
    pair = lambda first: struct(first, a=INT, b=INT)  # noqa: E731
    columns = fields(
        1,
        id=LONG,
        st=struct(11, a=INT, b=TEXT, inner=struct(21, x=INT, y=INT)),
        l=ListType(31, pair(32), element_required=False),
        m=MapType(41, TEXT, 42, pair(43), value_required=False),
        ml=MapType(51, TEXT, 52, ListType(53, INT, element_required=False), value_required=False),
        deep=ListType(61, MapType(62, TEXT, 63, pair(64), value_required=False), element_required=False),
        promo=struct(71, n=INT, f=FloatType()),
        z=struct(81, old=INT),
    )
    table = lake.create("nested", columns)
    values = {"a": 1, "b": 2}
    append(
        table,
        [
            {
                "id": 1,
                "st": {"a": 1, "b": "two", "inner": {"x": 3, "y": 4}},
                "l": [values, None, {"a": None, "b": 6}],
                "m": [("k", values), ("n", None)],
                "ml": [("k", [1, None]), ("e", [])],
                "deep": [[("k", values)], None, []],
                "promo": {"n": 7, "f": 1.5},
                "z": {"old": 5},
            },
            {"id": 2, "st": {"a": None, "b": None, "inner": None}, "l": [], "m": [], "promo": {"n": None, "f": None}},
            {"id": 3},
        ],
    )
    with table.update_schema(allow_incompatible_changes=True) as update:
        update.delete_column(("st", "a"))
        update.add_column(("st", "c"), INT)
        update.rename_column(("st", "b"), "text")
        update.delete_column(("st", "inner", "x"))
        update.add_column(("st", "inner", "z"), INT)
        for path in (("l", "element"), ("m", "value"), ("deep", "element", "value")):
            update.delete_column((*path, "a"))
            update.add_column((*path, "c"), INT)
        update.update_column(("promo", "n"), field_type=LONG)
        update.update_column(("promo", "f"), field_type=DoubleType())
        update.update_column(("ml", "value", "element"), field_type=LONG)
        update.add_column(("z", "fresh"), INT)
    with table.update_schema(allow_incompatible_changes=True) as update:
        # Another field under the old name, and nothing left of what the file has.
        update.add_column(("st", "b"), INT)
        update.delete_column(("z", "old"))
        update.move_first(("l", "element", "c"))
        update.move_first(("st", "inner"))
        update.rename_column("ml", "lists")
    values = {"b": 20, "c": 30}
    append(
        table,
        [
            {
                "id": 4,
                "st": {"b": 20, "text": "new", "c": 30, "inner": {"y": 40, "z": 50}},
                "l": [values],
                "m": [("k", values)],
                "lists": [("k", [1 << 40])],
                "deep": [[("k", values)]],
                "promo": {"n": 1 << 40, "f": 1e300},
                "z": {"fresh": 60},
            }
        ],
    )


def write_partitioned_later(lake: Lake) -> None:
    """A column that came later, and the table was then partitioned by it."""
    table = lake.create("partitioned_later", fields(1, id=LONG))
    append(table, [{"id": 1}, {"id": 2}])
    with table.update_schema() as update:
        update.add_column("r", TEXT)
    with table.update_spec() as update:
        update.add_field("r", IdentityTransform(), "r")
    append(table, [{"id": 3, "r": "eu"}, {"id": 4, "r": "us"}, {"id": 5, "r": None}])


def write_by_nested(lake: Lake) -> None:
    columns = fields(1, id=LONG, st=struct(11, k=TEXT, n=INT))
    table = lake.create("by_nested", columns, PartitionField(11, 1000, IdentityTransform(), "st_k"))
    append(table, [{"id": 1, "st": {"k": "x", "n": 1}}, {"id": 2, "st": {"k": "y", "n": 2}}, {"id": 3, "st": None}])


NAMES = ["é", "a b", "1st", "x-y", "日本", "UPPER", 'p"q\\', "a/b", "💾"]


def write_named(lake: Lake) -> None:
    """Partition fields whose names Avro does not take."""
    for number, name in enumerate(NAMES):
        columns = [NestedField(1, "id", LONG), NestedField(2, name, TEXT), NestedField(3, "n", INT)]
        spec = [
            PartitionField(2, 1000, IdentityTransform(), name),
            PartitionField(3, 1001, TruncateTransform(10), f"{name} of n"),
            PartitionField(1, 1002, BucketTransform(2), f"{name}!"),
        ]
        table = lake.create(f"named_{number}", columns, *spec)
        for start in (0, 10):
            append(table, [{"id": start + i, name: ["x", "y", None][i % 3], "n": start + i} for i in range(4)])


def write_nan(lake: Lake) -> None:
    table = lake.create("nan", fields(1, id=LONG, x=DoubleType(), f=FloatType()))
    for number, values in enumerate(([1.0, 2.0], [1.0, NAN], [NAN, NAN], [-0.0, 0.0], [None, 3.0], [float("-inf"), 9.0])):
        append(table, [{"id": number * 10 + i, "x": value, "f": value} for i, value in enumerate(values)])


def write_imported(lake: Lake) -> None:
    """Files as they come from Hive: what they are partitioned by is not in them."""
    columns = fields(1, id=LONG, region=TEXT, day=DateType(), n=INT, s=struct(11, a=INT))
    spec = [(2, "region"), (3, "day"), (4, "n")]
    spec = [PartitionField(column, 1000 + i, IdentityTransform(), name) for i, (column, name) in enumerate(spec)]
    table = lake.create("imported", columns, *spec)
    append(table, [{"id": 1, "region": "eu", "day": datetime.date(2024, 2, 29), "n": -1, "s": {"a": 1}}])
    kept = Schema(table.schema().find_field("id"), table.schema().find_field("s"))
    files = []
    for number, partition in enumerate((("us", 19782, 7), (None, None, None), ("", -1, -(1 << 31)))):
        path = pathlib.Path(lake.warehouse.removeprefix("file://")) / "imported" / "data" / f"hive-{number}.parquet"
        ids = [10 * (number + 1) + i for i in range(2)]
        rows = pyarrow.Table.from_pylist([{"id": i, "s": {"a": i}} for i in ids], schema=schema_to_pyarrow(kept))
        pyarrow.parquet.write_table(rows, path)
        files.append(
            DataFile.from_args(
                content=DataFileContent.DATA,
                file_path=f"file://{path}",
                file_format=FileFormat.PARQUET,
                partition=Record(*partition),
                record_count=len(rows),
                file_size_in_bytes=path.stat().st_size,
                sort_order_id=None,
                spec_id=table.spec().spec_id,
                equality_ids=None,
                key_metadata=None,
            )
        )
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as snapshot:
        for file in files:
            snapshot.append_data_file(file)


def write_whole(lake: Lake) -> None:
    """Tables to be damaged by the test."""
    for name in ("fine", "no_metadata", "no_list", "no_manifest", "no_data", "corrupt_metadata", "version_9"):
        table = lake.create(name, fields(1, id=LONG))
        append(table, [{"id": 1}])


def plain(value, kind):
    """A value as JSON has it: maps are objects, and numbers that JSON does not have are text."""
    if value is None:
        return None
    if pyarrow.types.is_map(kind):
        return {key: plain(item, kind.item_type) for key, item in value}
    if pyarrow.types.is_struct(kind):
        return {field.name: plain(value[field.name], field.type) for field in kind}
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return [plain(item, kind.value_type) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value.isoformat() if isinstance(value, datetime.date) else value


def judge(lake: Lake, folder: pathlib.Path) -> None:
    folder.mkdir()
    for _, name in lake.catalog.list_tables("t"):
        rows = lake.catalog.load_table(f"t.{name}").scan().to_arrow()
        kinds = {field.name: field.type for field in rows.schema}
        lines = [{column: plain(value, kinds[column]) for column, value in row.items()} for row in rows.to_pylist()]
        lines.sort(key=lambda row: row["id"])
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.ndjson").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder.absolute()
    lake = Lake(folder)
    for write in (
        write_nested,
        write_partitioned_later,
        write_by_nested,
        write_named,
        write_nan,
        write_imported,
        write_whole,
    ):
        write(lake)
    judge(lake, folder / "rows")


if __name__ == "__main__":
    main()
