"""Reads results that were written in every format, and holds each against the rows that it was written from.

    read_formats.py MANIFEST

MANIFEST is a JSON list; each entry has `what`, `query`, `reference` (an Arrow IPC stream of the rows as the engine alone makes them,
in any order), `expected` (the same of the rows that were written), and `arrow`, `csv`, `json`, `ndjson`, `parquet`, `table`: the files
that were written. Types have to be equal in the Arrow stream and values in all formats but the table, of which only the number of
lines is read. Prints the number of entries; the first difference ends with status 1.
"""

import collections
import csv
import datetime
import decimal
import json
import math
import pathlib
import sys

import pyarrow
import pyarrow.parquet
import pyarrow.types as types

csv.field_size_limit(sys.maxsize)
EPOCH = datetime.datetime(1970, 1, 1)


def check_arrow(expected: pyarrow.Table, path: str) -> None:
    with pyarrow.ipc.open_stream(path) as reader:
        actual = reader.read_all()
    actual.validate(full=True)
    kinds = [(field.name, field.type) for field in expected.schema], [(field.name, field.type) for field in actual.schema]
    assert kinds[0] == kinds[1], f"types: {kinds}"
    assert rows_of(actual) == rows_of(expected), f"rows: {rows_of(expected)} became {rows_of(actual)}"


def check_parquet(expected: pyarrow.Table, path: str) -> None:
    """Parquet has fewer types: points of time are finer, and what it does not know is text."""
    actual = pyarrow.parquet.read_table(path)
    actual.validate(full=True)
    assert actual.num_columns == expected.num_columns and actual.num_rows == expected.num_rows, f"{actual.schema}"
    assert len(set(actual.column_names)) == actual.num_columns, f"{actual.column_names}"
    # Arrow's readers take types from a schema of their own. All others see a number where no type is noted.
    leaves = [pyarrow.parquet.ParquetFile(path).schema.column(at) for at in range(leaves_of(actual.schema))]
    bare = [leaf.path for leaf in leaves if leaf.physical_type in ("INT32", "INT64") and leaf.logical_type.type == "NONE"]
    whole = sum(whole_numbers(field.type) for field in actual.schema)
    assert len(bare) == whole, f"{whole} whole numbers, and bare numbers in {bare}: {actual.schema}"
    for written, read in zip(expected.columns, actual.columns):
        if is_text(read.type) and not is_text(written.type) and not types.is_dictionary(written.type):
            assert is_strange(written.type), f"{written.type} became text"
            assert read.is_valid().equals(written.is_valid()), f"NULLs of {written.type}"
            continue
        kinds = as_stored(written.type), as_read(read.type)
        assert kinds[0] == kinds[1], f"types: {kinds}"
        if read.type != written.type:
            written = written.cast(read.type)
        rows = [rows_of(pyarrow.table({"c": column})) for column in (read, written)]
        assert rows[0] == rows[1], f"{written.type}: {rows[1]} became {rows[0]}"


def inner(kind: pyarrow.DataType) -> list:
    """The types inside a type."""
    if types.is_dictionary(kind):
        return [kind.value_type]
    if types.is_map(kind):
        return [kind.key_type, kind.item_type]
    if is_list(kind):
        return [kind.value_type]
    return [field.type for field in kind] if types.is_struct(kind) else []


def leaves_of(schema) -> int:
    return sum(leaf_count(field.type) for field in schema)


def leaf_count(kind: pyarrow.DataType) -> int:
    return sum(leaf_count(part) for part in inner(kind)) if inner(kind) else 1


def whole_numbers(kind: pyarrow.DataType) -> int:
    return int(kind in (pyarrow.int32(), pyarrow.int64())) + sum(whole_numbers(part) for part in inner(kind))


def is_strange(kind: pyarrow.DataType) -> bool:
    """A type that Parquet does not know, or that has one inside."""
    return types.is_interval(kind) or types.is_duration(kind) or types.is_union(kind) or any(map(is_strange, inner(kind)))


def as_read(kind: pyarrow.DataType):
    """A type without what readers may choose: dictionaries, views and sizes of offsets."""
    if types.is_dictionary(kind):
        return as_read(kind.value_type)
    if is_text(kind):
        return "text"
    if types.is_binary(kind) or types.is_large_binary(kind) or "binary_view" in str(kind):
        return "binary"
    if is_nested(kind):
        family = "map" if types.is_map(kind) else "list" if is_list(kind) else [field.name for field in kind]
        return family, [as_read(part) for part in inner(kind)]
    return str(kind)


def as_stored(kind: pyarrow.DataType):
    """The same of a type as Parquet has it: no seconds, no days in milliseconds, durations as text."""
    if is_nested(kind) or types.is_dictionary(kind):
        parts = [as_stored(part) for part in inner(kind)]
        return parts[0] if types.is_dictionary(kind) else (as_read(kind)[0], parts)
    if types.is_timestamp(kind) and kind.unit == "s":
        return str(pyarrow.timestamp("ms", kind.tz))
    if kind == pyarrow.date64():
        return str(pyarrow.timestamp("ms"))
    if kind == pyarrow.time32("s"):
        return str(pyarrow.time32("ms"))
    return "text" if types.is_duration(kind) else as_read(kind)


def is_text(kind: pyarrow.DataType) -> bool:
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def rows_of(table: pyarrow.Table) -> list:
    """Every value as something that equals itself, NaN too."""
    columns = [[plain(value) for chunk in column.chunks for value in chunk] for column in table.columns]
    return list(zip(*columns)) if columns else [()] * table.num_rows


def plain(value: pyarrow.Scalar):
    if not value.is_valid:
        return None
    kind = value.type
    if types.is_dictionary(kind):
        return plain(value.value)
    if types.is_floating(kind):
        number = value.as_py()
        return "NaN" if math.isnan(number) else (number, math.copysign(1, number))
    if types.is_timestamp(kind) or types.is_duration(kind):
        return str(kind), value.value
    if types.is_struct(kind):
        return tuple((name, plain(value[name])) for name in (field.name for field in kind))
    if types.is_map(kind):
        return tuple((plain(entry["key"]), plain(entry["value"])) for entry in value.values or [])
    if is_list(kind):
        return tuple(plain(item) for item in value.values)
    return value.as_py()


def is_list(kind: pyarrow.DataType) -> bool:
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_list_view(kind)


def is_nested(kind: pyarrow.DataType) -> bool:
    return types.is_struct(kind) or types.is_map(kind) or is_list(kind)


def check_csv(expected: pyarrow.Table, path: str) -> None:
    with open(path, newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == expected.column_names, f"header: {lines[0]}"
    assert len(lines) - 1 == expected.num_rows, f"{len(lines) - 1} rows of {expected.num_rows}"
    for index, line in enumerate(lines[1:]):
        assert len(line) == expected.num_columns, f"{line}"
        for column, text in zip(expected.columns, line):
            value = column[index]
            if not value.is_valid:
                assert text == "", f"NULL became {text!r}"
            elif is_nested(value.type):
                check_value(value, json.loads(text, parse_float=decimal.Decimal))
            else:
                check_text(value, text)


def check_text(value: pyarrow.Scalar, text: str) -> None:
    kind = value.type
    if types.is_dictionary(kind):
        return check_text(value.value, text)
    if types.is_boolean(kind):
        same = text == ("true" if value.as_py() else "false")
    elif types.is_floating(kind):
        read, number = float(text), value.as_py()
        same = (math.isnan(read) and math.isnan(number)) or narrow(read, kind) == number
    elif types.is_integer(kind):
        same = int(text) == value.as_py()
    elif types.is_decimal(kind):
        same = decimal.Decimal(text) == value.as_py()
    elif types.is_timestamp(kind):
        same = moment(text, kind) == value.value
    elif types.is_date(kind):
        same = text == value.as_py().isoformat()
    elif types.is_binary(kind) or types.is_large_binary(kind) or "binary" in str(kind):
        same = text == value.as_py().hex()
    elif "string" in str(kind):
        same = text == value.as_py()
    else:
        raise AssertionError(f"no rule for {kind}")
    assert same, f"{value!r} became {text!r}"


def narrow(number: float, kind: pyarrow.DataType) -> float:
    return pyarrow.scalar(number, kind).as_py()


def moment(text: str, kind: pyarrow.DataType) -> int:
    """The time's number, to the nanosecond."""
    text, _, fraction = text.partition(".")
    cut = next((at for at, character in enumerate(fraction) if not character.isdigit()), len(fraction))
    digits, zone = fraction[:cut], fraction[cut:]
    read = datetime.datetime.fromisoformat(text + zone)
    if kind.tz is not None:
        assert read.tzinfo is not None, f"{text} has no zone"
        read = read.astimezone(datetime.timezone.utc).replace(tzinfo=None)
    since = read - EPOCH
    seconds = since.days * 86_400 + since.seconds
    nanos = seconds * 1_000_000_000 + int((digits + "0" * 9)[:9])
    return nanos // {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}[kind.unit]


def check_objects(expected: pyarrow.Table, objects: list) -> None:
    assert len(objects) == expected.num_rows, f"{len(objects)} rows of {expected.num_rows}"
    for index, row in enumerate(objects):
        assert len(row) == expected.num_columns, f"{row}"
        for column, read in zip(expected.columns, row.values()):
            check_value(column[index], read)


def check_value(value: pyarrow.Scalar, read) -> None:
    """A value that JSON has carried. It knows neither NaN nor infinity, and of maps only those with keys of text."""
    kind = value.type
    if types.is_dictionary(kind):
        return check_value(value.value, read) if value.is_valid else check_null(read)
    if not value.is_valid or (types.is_floating(kind) and not math.isfinite(value.as_py())):
        return check_null(read)
    if types.is_struct(kind):
        assert list(read) == [field.name for field in kind], f"{value!r} became {read!r}"
        for name, part in read.items():
            check_value(value[name], part)
    elif types.is_map(kind):
        entries = list(value.values)
        assert isinstance(read, dict) and len(read) == len(entries), f"{value!r} became {read!r}"
        for entry, (key, part) in zip(entries, read.items()):
            check_text(entry["key"], key)
            check_value(entry["value"], part)
    elif is_list(kind):
        assert len(read) == len(value.values), f"{value!r} became {read!r}"
        for item, part in zip(value.values, read):
            check_value(item, part)
    elif types.is_boolean(kind):
        assert read is value.as_py(), f"{value!r} became {read!r}"
    elif types.is_integer(kind) or types.is_decimal(kind) or types.is_floating(kind):
        assert not isinstance(read, (str, bool)), f"{value!r} became {read!r}"
        check_text(value, str(read))
    else:
        assert isinstance(read, str), f"{value!r} became {read!r}"
        check_text(value, read)


def check_null(read) -> None:
    assert read is None, f"NULL became {read!r}"


def read_file(path: str) -> pyarrow.Table:
    with pyarrow.ipc.open_stream(path) as reader:
        return reader.read_all()


def check(entry: dict) -> None:
    reference, expected = read_file(entry["reference"]), read_file(entry["expected"])
    # The engine alone has other names for columns without one.
    kinds = [field.type for field in reference.schema], [field.type for field in expected.schema]
    assert kinds[0] == kinds[1], f"types: {kinds}"
    both = collections.Counter(rows_of(reference)), collections.Counter(rows_of(expected))
    assert both[0] == both[1], f"rows: without {both[1] - both[0]}, with {both[0] - both[1]}"
    check_arrow(expected, entry["arrow"])
    check_csv(expected, entry["csv"])
    check_objects(expected, json.loads(pathlib.Path(entry["json"]).read_text(), parse_float=decimal.Decimal))
    lines = pathlib.Path(entry["ndjson"]).read_text().split("\n")[:-1]
    check_objects(expected, [json.loads(line, parse_float=decimal.Decimal) for line in lines])
    if expected.num_columns > 0:
        check_parquet(expected, entry["parquet"])
    drawn = pathlib.Path(entry["table"]).read_text()
    assert drawn.count("\n") >= expected.num_rows + 4, f"{drawn}"


def main() -> None:
    entries = json.loads(pathlib.Path(sys.argv[1]).read_text())
    for entry in entries:
        try:
            check(entry)
        except Exception as difference:
            raise SystemExit(f"{entry['what']}: {entry['query']}\n{type(difference).__name__}: {difference}") from difference
    print(len(entries))


if __name__ == "__main__":
    main()
