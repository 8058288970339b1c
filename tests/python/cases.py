"""Makes the data of the cases in `tests/cases/*.toml`, and compares what a program printed with their rows.

    cases.py make FOLDER CASES      FOLDER/<file>/<number of the case>/ becomes the place where the case is run, and
                                    FOLDER/cases.json a list of all cases, each with its file and number
    cases.py judge FOLDER           reads FOLDER/runs.json, prints a JSON object: the name of an ask and how it differs

The comparison is typed where the format is: an Arrow stream's numbers, dates and NULLs are values, JSON's are numbers,
texts and null, and CSV and tables are read as the text that they are.
"""

import csv
import datetime
import decimal
import io
import json
import math
import os
import pathlib
import re
import sys
import tomllib

import pyarrow as pa
import pyarrow.parquet as pq


def write(path: str, table: object, **options: object) -> None:
    """One Parquet file; its folder is made."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path, **options)


def put(path: str, data: bytes | str) -> None:
    """Any other file."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(path).write_bytes(data.encode() if isinstance(data, str) else data)


def lake() -> object:
    """A catalog `lake` with the namespace `ns` in this folder, and the configuration that names it."""
    from pyiceberg.catalog.sql import SqlCatalog

    here = os.getcwd()
    catalog = SqlCatalog("lake", uri=f"sqlite:///{here}/cat.db", warehouse=f"file://{here}/wh")
    catalog.create_namespace("ns")
    put("gust.toml", f'[catalogs.lake]\ntype = "sqlite"\npath = "cat.db"\nwarehouse = "file://{here}/wh"\n')
    return catalog


def make(folder: pathlib.Path, cases: pathlib.Path) -> None:
    start, made = os.getcwd(), []
    for file in sorted(cases.glob("*.toml")):
        for number, case in enumerate(tomllib.loads(file.read_text())["case"]):
            place = folder / file.stem / str(number)
            place.mkdir(parents=True)
            os.chdir(place)
            has_data = "data" in case
            names = {"pa": pa, "pq": pq, "w": write, "put": put, "lake": lake, "D": decimal.Decimal, "datetime": datetime}
            try:
                exec(case.pop("data", ""), {**names, "nan": math.nan, "inf": math.inf, "os": os, "pathlib": pathlib})
            except Exception as error:
                raise RuntimeError(f"{file.name}, {case['name']}: its data cannot be made") from error
            for ask in case["ask"]:
                resolve(ask)
                # What reads no table stays here.
                ask.setdefault("remote", has_data)
            made.append({**case, "file": file.stem, "number": number})
    os.chdir(start)
    (folder / "cases.json").write_text(json.dumps(made))


def resolve(ask: dict) -> None:
    """Makes `sql` and `results` of what stands for them: expressions of Python, and the rows of the only result."""
    if "text" in ask:
        ask["sql"] = eval(ask.pop("text"))
    if "rows_of" in ask:
        ask["rows"] = "\n".join(map(json.dumps, eval(ask.pop("rows_of"))))
    if "rows" in ask:
        ask["results"] = [ask.pop("rows")]


def plain(value: object) -> object:
    """A value of an Arrow column as the expected rows write it."""
    match value:
        case decimal.Decimal() | datetime.date() | datetime.time():
            return value.isoformat() if hasattr(value, "isoformat") else format(value, "f")
        case bytes():
            return value.hex()
        case list():
            return [plain(item) for item in value]
        case tuple():
            return [plain(item) for item in value]
        case dict():
            return {key: plain(item) for key, item in value.items()}
    return value


def from_arrow(data: bytes) -> list[tuple[list[str], list[list[object]], list[str]]]:
    results, source = [], io.BytesIO(data)
    while source.tell() < len(data):
        with pa.ipc.open_stream(source) as reader:
            table = reader.read_all()
        table.validate(full=True)
        columns, types = [], []
        for column in table.columns:
            types.append(re.sub("^(large_)?string(_view)?$", "string", str(column.type)))
            # Python has no nanoseconds.
            if pa.types.is_timestamp(column.type):
                column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
            columns.append([plain(value) for value in column.to_pylist()])
        results.append((table.column_names, [list(row) for row in zip(*columns)], types))
    return results


def from_csv(text: str) -> list[tuple[list[str], list[list[str]]]]:
    results = []
    for part in re.split(r"\n(?=\n)", text):
        header, *rows = csv.reader(io.StringIO(part.removeprefix("\n")))
        results.append((header, rows))
    return results


def from_table(text: str) -> list[tuple[list[str], list[list[str]]]]:
    results = []
    for part in text.split("\n\n"):
        lines = [line.strip()[2:-2] for line in part.splitlines() if line.startswith("|")]
        header, *rows = [[cell.strip() for cell in line.split(" | ")] for line in lines]
        results.append((header, rows))
    return results


def from_json(text: str, is_lines: bool) -> list[list[list[object]]]:
    arrays = [[json.loads(line) for line in text.splitlines()]] if is_lines else map(json.loads, text.splitlines())
    return [[list(row.values()) for row in rows] for rows in arrays]


def same(expected: object, got: object) -> bool:
    """Whether a value is the expected one and of its kind: a NULL is no empty text, and true is no 1."""
    if isinstance(expected, float) and isinstance(got, float):
        return repr(expected) == repr(got) or (math.isnan(expected) and math.isnan(got))
    if isinstance(expected, list) and isinstance(got, list):
        return len(expected) == len(got) and all(map(same, expected, got))
    if isinstance(expected, dict) and isinstance(got, dict):
        return list(expected) == list(got) and all(same(expected[key], got[key]) for key in expected)
    return type(expected) is type(got) and expected == got


def same_json(expected: object, got: object) -> bool:
    """JSON has no NaN, and one kind of number; decimals and timestamps are numbers or texts."""
    match expected:
        case float():
            unsayable = math.isnan(expected) or math.isinf(expected)
            return got is None if unsayable else isinstance(got, int | float) and float(got) == expected
        case list():
            return isinstance(got, list) and len(expected) == len(got) and all(map(same_json, expected, got))
        case dict():
            return isinstance(got, dict) and list(expected) == list(got) and all(
                same_json(expected[key], got[key]) for key in expected)
        case str() if isinstance(got, int | float) and not isinstance(got, bool):
            return decimal.Decimal(str(got)) == decimal.Decimal(expected) if is_number(expected) else False
        case str():
            return isinstance(got, str) and same_text(expected, got)
    return type(expected) is type(got) and expected == got


def is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?", text) is not None


def same_text(expected: object, got: str, null: str = "") -> bool:
    """The text of a cell; a point of time may be written with more digits."""
    match expected:
        case None:
            return got == null
        case bool():
            return got == str(expected).lower()
        case int():
            return got == str(expected)
        case float():
            return got != "" and same(expected, float(got))
        case list() | dict():
            letters = re.compile(r"[^\w.-]+")
            expected = json.dumps(expected, ensure_ascii=False)
            return letters.sub("", expected).lower() == letters.sub("", got).lower()
    time = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.0+)?(\+00:00|Z)?$")
    return expected == got or time.sub(r"\1", str(expected)) == time.sub(r"\1", got)


def results_of(kind: str, output: bytes, lengths: list[int]) -> list[tuple]:
    """The results in an output, each with its header and types, or None where the format has none."""
    if kind == "arrow":
        return from_arrow(output)
    if kind in ("csv", "table"):
        results = (from_csv if kind == "csv" else from_table)(output.decode())
        return [(header, rows, None) for header, rows in results]
    arrays = from_json(output.decode(), kind == "ndjson")
    if kind == "ndjson" and len(arrays[0]) == sum(lengths):
        # The rows of all results stand one after the other.
        rows = iter(arrays[0])
        arrays = [[next(rows) for _ in range(length)] for length in lengths]
    return [(None, rows, None) for rows in arrays]


def differs(kind: str, is_ordered: bool, expected: tuple, got: tuple) -> str | None:
    """How a result is not the expected one."""
    (header, rows), (found_header, found, _) = expected, got
    compare = {"arrow": same, "json": same_json, "ndjson": same_json}.get(kind, same_text)
    if kind == "table":
        compare = lambda expected, got: same_text(expected, got, "NULL")  # noqa: E731
    if found_header is not None and header != found_header:
        return f"columns {found_header}, expected {header}"
    if not is_ordered:
        rows, found = [sorted(side, key=lambda row: ["" if cell in (None, "NULL") else str(cell) for cell in row]) for side in (rows, found)]
    pairs = zip(rows, found)
    if len(rows) != len(found) or not all(len(a) == len(b) and all(map(compare, a, b)) for a, b in pairs):
        return f"rows {found[:20]}, expected {rows[:20]}"
    return None


def differences_of(run: dict, output: bytes) -> dict[str, str]:
    """How an output is not what its asks expect, by their names."""
    kind, asks, expected = run["format"], run["asks"], []
    for ask in asks:
        for text in ask["results"]:
            header, *rows = [json.loads(line) for line in text.strip().splitlines()]
            expected.append((header, rows))
    got = results_of(kind, output, [len(rows) for _, rows in expected])
    if len(got) != len(expected):
        return {ask["name"]: f"{len(got)} results, expected {len(expected)}: {got}" for ask in asks}
    differences, results = {}, iter(zip(expected, got))
    for ask in asks:
        own = [next(results) for _ in ask["results"]]
        types = [types for _, (_, _, types) in own]
        found = [differs(kind, ask["ordered"], expected, got) for expected, got in own]
        if kind == "arrow" and ask.get("types") and types != [ask["types"]]:
            found.insert(0, f"types {types}, expected {ask['types']}")
        if any(found):
            differences[ask["name"]] = next(filter(None, found))
    return differences


def judge(folder: pathlib.Path) -> None:
    differences = {}
    for run in json.loads((folder / "runs.json").read_text()):
        output = (folder / run["output"]).read_bytes()
        try:
            differences |= differences_of(run, output)
        except Exception as error:
            told = f"it cannot be read: {type(error).__name__}: {error}: {output[:300]!r}"
            differences |= {ask["name"]: told for ask in run["asks"]}
    print(json.dumps(differences))


def main() -> None:
    match sys.argv[1:]:
        case ["make", folder, cases]:
            make(pathlib.Path(folder), pathlib.Path(cases))
        case ["judge", folder]:
            judge(pathlib.Path(folder))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
