"""Makes one table in an Iceberg REST catalog with PyIceberg, or measures PyIceberg over a catalog of many names.

    catalog_names.py make URI             prints the location of the table's metadata
    catalog_names.py time URI NAME RUNS   prints JSON: seconds of listing all names, of those that begin as NAME does, and of one table's rows
"""

import argparse
import json
import time

import pyarrow
from pyiceberg.catalog import load_catalog


def make(catalog) -> None:
    rows = pyarrow.table({"id": pyarrow.array(range(1000), pyarrow.int64())})
    catalog.create_namespace("made")
    table = catalog.create_table("made.t", rows.schema)
    table.append(rows)
    print(catalog.load_table("made.t").metadata_location)


def names_of(catalog, namespace: tuple = ()) -> list[tuple]:
    found = []
    for below in catalog.list_namespaces(namespace):
        found += catalog.list_tables(below) + names_of(catalog, below)
    return found


def measured(work, runs: int) -> tuple[list[float], object]:
    seconds = []
    for _ in range(runs):
        begun = time.perf_counter()
        answer = work()
        seconds.append(time.perf_counter() - begun)
    return seconds, answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["make", "time"])
    parser.add_argument("uri")
    parser.add_argument("name", nargs="?")
    parser.add_argument("runs", nargs="?", type=int)
    arguments = parser.parse_args()
    catalog = load_catalog("rest", type="rest", uri=arguments.uri)
    if arguments.what == "make":
        return make(catalog)
    namespace, table = arguments.name.split(".")
    list_seconds, names = measured(lambda: names_of(catalog), arguments.runs)
    complete = lambda: [name for name in catalog.list_tables(namespace) if name[-1].startswith(table[:-1])]
    complete_seconds, completed = measured(complete, arguments.runs)
    query_seconds, rows = measured(lambda: catalog.load_table(arguments.name).scan().to_arrow().num_rows, arguments.runs)
    print(json.dumps({
        "list_seconds": list_seconds, "names": len(names),
        "complete_seconds": complete_seconds, "completed": len(completed),
        "query_seconds": query_seconds, "rows": rows,
    }))


if __name__ == "__main__":
    main()
