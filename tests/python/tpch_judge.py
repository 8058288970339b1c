"""Runs queries with DuckDB over the folders of Parquet files that Gust reads, as the judge of Gust's results.

    tpch_judge.py TABLES OUTPUT QUERY...

TABLES is a folder with a folder of Parquet files for each table, at any depth. Each QUERY is a file with one SQL
statement; its result becomes OUTPUT/<name of the file without .sql>.arrow, an Arrow IPC file.
"""

import argparse
import pathlib

import duckdb
import pyarrow


def connect(tables: pathlib.Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    for table in sorted(path for path in tables.iterdir() if path.is_dir()):
        files = str(table / "**" / "*.parquet").replace("'", "''")
        # A partition's folder name is no column of the table.
        scan = f"read_parquet('{files}', hive_partitioning = false)"
        connection.execute(f'CREATE VIEW "{table.name}" AS SELECT * FROM {scan}')
    return connection


def judge(connection: duckdb.DuckDBPyConnection, query: pathlib.Path, output: pathlib.Path) -> None:
    result = connection.execute(query.read_text()).to_arrow_table()
    with pyarrow.ipc.new_file(output / f"{query.stem}.arrow", result.schema) as writer:
        writer.write_table(result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("queries", type=pathlib.Path, nargs="+")
    arguments = parser.parse_args()
    connection = connect(arguments.tables)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for query in arguments.queries:
        judge(connection, query, arguments.output)


if __name__ == "__main__":
    main()
