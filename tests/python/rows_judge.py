"""Runs statements with DuckDB over Parquet files, as the judge of Gust's rows.

    rows_judge.py REQUEST.json

The request has `tables`, a path by name, and `queries`, a list of statements. stdout is a JSON list with an object for each: its
`rows`, each a list of cells as text or null, or the `error` that DuckDB gives.
"""

import argparse
import json
import pathlib

import duckdb


def text(cell: object) -> str | None:
    if cell is None:
        return None
    if isinstance(cell, bool):
        return str(cell).lower()
    return str(cell)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("request", type=pathlib.Path)
    request = json.loads(parser.parse_args().request.read_text())
    connection = duckdb.connect()
    for name, path in request["tables"].items():
        connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{path}')")
    answers = []
    for query in request["queries"]:
        try:
            rows = connection.execute(query).fetchall()
            answers.append({"rows": [[text(cell) for cell in row] for row in rows]})
        except duckdb.Error as error:
            answers.append({"error": str(error)})
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
