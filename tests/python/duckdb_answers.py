"""Answers statements with DuckDB, as a judge of Gust's answers.

    duckdb_answers.py FOLDER

FOLDER/queries.json is a list of statements; the answer to the one at position N becomes FOLDER/answers/N.arrow, an Arrow
IPC file, or FOLDER/answers/N.error, a message. FOLDER/files.json, if there is one, is a list of pairs of a path below FOLDER
and a statement whose rows become that Parquet file, before anything is answered. Each folder in FOLDER that has such files is a
view of its name.
"""

import argparse
import json
import os
import pathlib

import duckdb
import pyarrow as pa


def write(connection: duckdb.DuckDBPyConnection, files: list[list[str]]) -> None:
    for path, statement in files:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        connection.execute(f"COPY ({statement}) TO '{path}' (FORMAT parquet)")
    for folder in sorted({path.split("/")[0] for path, _ in files}):
        scan = f"read_parquet('{folder}/**/*.parquet', union_by_name = true)"
        try:
            connection.execute(f"CREATE VIEW {folder} AS SELECT * FROM {scan}")
        except duckdb.Error:
            # Files that do not fit each other are no table.
            continue


def answer(connection: duckdb.DuckDBPyConnection, folder: pathlib.Path) -> None:
    answers = folder / "answers"
    answers.mkdir()
    for number, query in enumerate(json.loads((folder / "queries.json").read_text())):
        try:
            result = connection.execute(query).to_arrow_table()
        except duckdb.Error as error:
            (answers / f"{number}.error").write_text(str(error))
            continue
        with pa.ipc.new_file(answers / f"{number}.arrow", result.schema) as writer:
            writer.write_table(result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder.absolute()
    os.chdir(folder)
    connection = duckdb.connect(config={"threads": 1})
    files = folder / "files.json"
    if files.exists():
        write(connection, json.loads(files.read_text()))
    answer(connection, folder)


if __name__ == "__main__":
    main()
