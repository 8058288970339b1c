"""Writes the tables of the matrix that pyiceberg writes.

    write_pyiceberg.py [TABLE ...]
"""

import datetime
import decimal
import math
import tempfile
import uuid

import common
import pyarrow
from common import ROOT
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.transforms import BucketTransform, HourTransform, IdentityTransform, MonthTransform
from pyiceberg.types import (
    BinaryType,
    DateType,
    DecimalType,
    DoubleType,
    FixedType,
    FloatType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    NestedField,
    StringType,
    StructType,
    TimestampType,
    TimestamptzType,
    TimeType,
    UUIDType,
)

INT, LONG, TEXT, DOUBLE = IntegerType(), LongType(), StringType(), DoubleType()
NAN = math.nan
WRITERS = common.Writers()
table = WRITERS.table
CATALOG = SqlCatalog("m", uri=f"sqlite:///{tempfile.mkdtemp()}/catalog.db", warehouse=f"file://{ROOT}")
CATALOG.create_namespace("m")


def fields(first_id: int, **types) -> list[NestedField]:
    return [NestedField(first_id + i, name, kind, required=False) for i, (name, kind) in enumerate(types.items())]


def struct(first_id: int, **types) -> StructType:
    return StructType(*fields(first_id, **types))


def create(name: str, columns: list[NestedField], *partitions: PartitionField, **properties: str) -> Table:
    location = f"file://{ROOT}/{name}"
    return CATALOG.create_table(f"m.{name}", Schema(*columns), location, PartitionSpec(*partitions), properties=properties)


def append(to: Table, rows: list[dict]) -> None:
    schema = schema_to_pyarrow(to.schema(), include_field_ids=False)
    to.append(pyarrow.Table.from_pylist(rows, schema=schema))


@table
def py_partitioned_later(name):
    """F1: a column was added, and the table partitioned by it, and by others later."""
    to = create(name, fields(1, id=INT))
    append(to, [{"id": 1}, {"id": 2}])
    with to.update_schema() as update:
        update.add_column("region", TEXT)
        update.add_column("n", INT)
    with to.update_spec() as update:
        update.add_field("region", IdentityTransform(), "region")
    append(to, [{"id": 3, "region": "eu", "n": 1}, {"id": 4, "region": "us", "n": None}, {"id": 5, "region": None, "n": 2}])
    with to.update_spec() as update:
        update.remove_field("region")
        update.add_field("n", IdentityTransform(), "n_id")
    append(to, [{"id": 6, "region": "eu", "n": 1}, {"id": 7, "region": None, "n": None}])


@table
def py_nested_source(name):
    """F2: partitioned by a field of a struct, by value and by bucket."""
    to = create(name, fields(1, id=INT, s=struct(11, x=INT, y=TEXT)))
    with to.update_spec() as update:
        update.add_field("s.x", IdentityTransform(), "x")
    append(to, [{"id": 1, "s": {"x": 1, "y": "a"}}, {"id": 2, "s": {"x": 2, "y": "b"}}, {"id": 3, "s": {"x": None, "y": "c"}}])


@table
def py_list_evolved(name):
    """W2: pyiceberg's files say LargeList in their Arrow schema."""
    pair = struct(12, a=INT, b=INT)
    to = create(name, fields(1, id=INT, l=ListType(11, pair, element_required=False)))
    append(to, [{"id": 1, "l": [{"a": 1, "b": 2}, None]}, {"id": 2, "l": []}, {"id": 3, "l": None}])
    with to.update_schema() as update:
        update.delete_column("l.element.a")
        update.add_column(("l", "element", "c"), INT)
    append(to, [{"id": 4, "l": [{"b": 20, "c": 30}]}])


@table
def py_map_evolved(name):
    """W1, by pyiceberg."""
    pair = struct(13, a=INT, b=INT)
    to = create(name, fields(1, id=INT, m=MapType(11, TEXT, 12, pair, value_required=False)))
    append(to, [{"id": 1, "m": [("k", {"a": 1, "b": 2})]}, {"id": 2, "m": []}, {"id": 3, "m": None}])
    with to.update_schema() as update:
        update.delete_column("m.value.a")
        update.add_column(("m", "value", "c"), INT)
    append(to, [{"id": 4, "m": [("k", {"b": 20, "c": 30})]}])


@table
def py_struct_evolved(name):
    """Fields of a struct dropped, added again under the same name, renamed and promoted."""
    to = create(name, fields(1, id=INT, s=struct(11, a=INT, b=TEXT, f=FloatType())))
    append(to, [{"id": 1, "s": {"a": 1, "b": "x", "f": 1.5}}, {"id": 2, "s": None}])
    with to.update_schema() as update:
        update.delete_column("s.a")
        update.rename_column("s.b", "was_b")
        update.update_column("s.f", field_type=DOUBLE)
    with to.update_schema() as update:
        update.add_column(("s", "a"), TEXT)
        update.add_column(("s", "b"), INT)
    append(to, [{"id": 3, "s": {"was_b": "y", "f": 1e300, "a": "new", "b": 3}}])


@table
def py_names(name):
    """Names that are no Avro names, also of partition fields."""
    to = create(name, fields(1, **{"a b": INT, "Größe": TEXT, "1x": INT, "a.b": INT, "漢字": TEXT}))
    with to.update_spec() as update:
        update.add_field("a b", IdentityTransform(), "a b")
        update.add_field("Größe", IdentityTransform(), "Größe")
    append(to, [{"a b": 1, "Größe": "x/y", "1x": 10, "a.b": 100, "漢字": "é"}, {"a b": 2, "Größe": "", "1x": None, "a.b": 200, "漢字": None}])


@table
def py_nan(name):
    """W3: NaN in doubles and floats; one file has only NaN."""
    to = create(name, fields(1, id=INT, x=DOUBLE, f=FloatType()))
    append(to, [{"id": 1, "x": 1.0, "f": 1.0}, {"id": 2, "x": 2.0, "f": NAN}, {"id": 3, "x": NAN, "f": 3.0}])
    append(to, [{"id": 4, "x": NAN, "f": NAN}])
    append(to, [{"id": 5, "x": -7.5, "f": -math.inf}, {"id": 6, "x": None, "f": None}])


@table
def py_decimals(name):
    """Decimals of 37 of 38 digits, negative and positive."""
    kind = DecimalType(38, 2)
    to = create(name, fields(1, id=INT, n=kind, small=DecimalType(4, 3)))
    big = decimal.Decimal("99999999999999999999999999999999999.99")
    append(to, [
        {"id": 1, "n": big, "small": decimal.Decimal("1.234")},
        {"id": 2, "n": big.copy_negate(), "small": decimal.Decimal("-9.999")},
        {"id": 3, "n": decimal.Decimal("-0.01"), "small": None},
        {"id": 4, "n": None, "small": decimal.Decimal("0.001")},
    ])


@table
def py_moved_data(name):
    """`write.data.path` moved: older files lie elsewhere."""
    to = create(name, fields(1, id=INT, name=TEXT))
    append(to, [{"id": 1, "name": "a"}])
    with to.transaction() as transaction:
        transaction.set_properties({"write.data.path": f"file://{ROOT}/{name}/moved"})
    append(to, [{"id": 2, "name": "b"}])


@table
def py_branched(name):
    to = create(name, fields(1, id=INT))
    append(to, [{"id": 1}])
    first = to.current_snapshot().snapshot_id
    append(to, [{"id": 2}])
    to.manage_snapshots().create_branch(first, "old").create_tag(first, "first").commit()
    append(to, [{"id": 3}])


@table
def py_long_bounds(name):
    """Trap 15: bounds are cut after 16 characters; the upper one is rounded up, or left away where it cannot be."""
    to = create(name, fields(1, id=INT, s=TEXT, b=BinaryType()))
    append(to, [{"id": 1, "s": "a" * 16 + "z", "b": b"\xff" * 17}, {"id": 2, "s": "a" * 15, "b": b""}])
    append(to, [{"id": 3, "s": "é" * 20, "b": b"\x00" * 17}])
    append(to, [{"id": 4, "s": chr(0x10FFFF) * 17, "b": None}])
    append(to, [{"id": 5, "s": "a" * 16, "b": b"\xff" * 16}])


@table
def py_field_dropped(name):
    """A partition field was added, and dropped again."""
    to = create(name, fields(1, id=INT, n=INT))
    append(to, [{"id": 1, "n": 1}])
    with to.update_spec() as update:
        update.add_field("n", BucketTransform(4), "n_bucket")
    append(to, [{"id": 2, "n": 2}, {"id": 3, "n": None}])
    with to.update_spec() as update:
        update.remove_field("n_bucket")
    append(to, [{"id": 4, "n": 1}])


@table
def py_empty(name):
    create(name, fields(1, id=INT, name=TEXT), PartitionField(1, 1000, IdentityTransform(), "id"))


@table
def py_emptied(name):
    """Every row was deleted again."""
    to = create(name, fields(1, id=INT))
    append(to, [{"id": 1}, {"id": 2}])
    to.delete("id > 0")


@table
def py_rewritten(name):
    """Rows are deleted by copying files; a file is dropped whole."""
    to = create(name, fields(1, id=INT, n=INT))
    append(to, [{"id": 1, "n": 1}, {"id": 2, "n": 2}, {"id": 3, "n": None}])
    append(to, [{"id": 4, "n": 4}, {"id": 5, "n": 5}])
    to.delete("id = 2")
    to.delete("id >= 4")
    to.overwrite(pyarrow.Table.from_pylist([{"id": 3, "n": 30}], schema=schema_to_pyarrow(to.schema(), include_field_ids=False)), overwrite_filter="id = 3")


@table
def py_types(name):
    """Times, UUIDs, fixed bytes, both kinds of timestamps, below structs, too."""
    to = create(name, fields(1, id=INT, t=TimeType(), u=UUIDType(), f=FixedType(3), ts=TimestampType(), tz=TimestamptzType(), d=DateType()))
    append(to, [
        {"id": 1, "t": datetime.time(23, 59, 59, 999999), "u": uuid.UUID("f79c3e09-677c-4bbd-a479-3f349cb785e7").bytes, "f": b"\x00\x01\xff",
         "ts": datetime.datetime(1969, 12, 31, 23, 59, 59, 999999), "tz": datetime.datetime(1, 1, 1, tzinfo=datetime.timezone.utc), "d": datetime.date(1, 1, 1)},
        {"id": 2, "t": datetime.time(0), "u": uuid.UUID(int=0).bytes, "f": b"\xff\xff\xff",
         "ts": datetime.datetime(9999, 12, 31, 23, 59, 59), "tz": datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc), "d": datetime.date(9999, 12, 31)},
        {"id": 3},
    ])


@table
def py_by_time(name):
    """Months and hours before 1970, of dates and of points of time."""
    to = create(name, fields(1, id=INT, d=DateType(), tz=TimestamptzType()), PartitionField(2, 1000, MonthTransform(), "d_month"), PartitionField(3, 1001, HourTransform(), "tz_hour"))
    utc = datetime.timezone.utc
    append(to, [
        {"id": 1, "d": datetime.date(1969, 12, 31), "tz": datetime.datetime(1969, 12, 31, 23, 59, 59, 999999, utc)},
        {"id": 2, "d": datetime.date(1970, 1, 1), "tz": datetime.datetime(1970, 1, 1, tzinfo=utc)},
        {"id": 3, "d": datetime.date(1969, 11, 30), "tz": datetime.datetime(1969, 12, 31, 22, 59, 59, tzinfo=utc)},
        {"id": 4, "d": None, "tz": None},
    ])


@table
def py_promoted(name):
    """Int to long, float to double and wider decimals, under bounds of the older types."""
    to = create(name, fields(1, id=INT, n=INT, f=FloatType(), d=DecimalType(5, 2)))
    append(to, [{"id": 1, "n": -1, "f": 1.5, "d": decimal.Decimal("-1.25")}, {"id": 2, "n": 7, "f": NAN, "d": decimal.Decimal("999.99")}])
    with to.update_schema() as update:
        update.update_column("n", field_type=LONG)
        update.update_column("f", field_type=DOUBLE)
        update.update_column("d", field_type=DecimalType(18, 2))
    append(to, [{"id": 3, "n": 5_000_000_000, "f": 1e300, "d": decimal.Decimal("1234567890.12")}])


@table
def py_readded(name):
    """A column dropped and added again, and two that swap their names."""
    to = create(name, fields(1, id=INT, gone=TEXT, ours=TEXT, theirs=TEXT))
    append(to, [{"id": 1, "gone": "g", "ours": "o", "theirs": "t"}])
    with to.update_schema() as update:
        update.delete_column("gone")
        update.rename_column("ours", "swapping")
    with to.update_schema() as update:
        update.add_column("gone", TEXT)
        update.rename_column("theirs", "ours")
    with to.update_schema() as update:
        update.rename_column("swapping", "theirs")
    append(to, [{"id": 2, "gone": "again", "ours": "o2", "theirs": "t2"}])


if __name__ == "__main__":
    common.main(__doc__, WRITERS)
