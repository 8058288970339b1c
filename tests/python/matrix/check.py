"""Checks the truth of the matrix against its judges, each in a process of its own, and prints who agrees.

    check.py [--judge J ...] [--only TABLE ...] [--check | --write] [--show]

--check fails where fewer than two judges agree with the rows in the truth, or where a verdict is not the one written there. --write
writes the verdicts into the truth's files. --show prints every difference. A verdict is `ok`, `wrong` (other rows), `refuses` (an
error), or `aborts` (the judge's process ended). Where the truth has `varies`, a judge gives now these rows, now others. The judge
`gust` is Gust itself, which shows what works: the variable GUST names its program. It has no verdicts in the truth.
"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

from common import ROOT, TABLES, TRUTH, metadata_file

# The judges of which two have to agree. iceberg-rust is asked, too.
FOUR = ["spark", "pyiceberg", "duckdb", "chdb"]
JUDGES = [*FOUR, "rust"]
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def copy_fixtures() -> None:
    """Copies the checked-in tables to where their metadata says that they are."""
    for source in TABLES.iterdir():
        if not (ROOT / source.name).exists():
            part = ROOT / f".{source.name}.{os.getpid()}"
            shutil.copytree(source, part)
            part.rename(ROOT / source.name)


def read_truth(only: list[str]) -> dict[pathlib.Path, list[dict]]:
    files = {file: tomllib.loads(file.read_text())["table"] for file in sorted(TRUTH.glob("*.toml"))}
    names = [table["name"] for tables in files.values() for table in tables]
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    without = sorted({folder.name for folder in TABLES.iterdir()} - set(names))
    missing = sorted(set(names) - {folder.name for folder in TABLES.iterdir()})
    for problem, tables in (("twice in the truth", twice), ("without a truth", without), ("without a folder", missing)):
        if tables:
            print(f"tables {problem}: {', '.join(tables)}")
    return {file: [table for table in tables if not only or table["name"] in only] for file, tables in files.items()}


def request(tables: list[dict]) -> list[dict]:
    return [
        {
            "name": table["name"],
            "folder": str(ROOT / table["name"]),
            "metadata": str(metadata_file(table["name"])),
            "asks": [{key: ask[key] for key in ("sql", "spark_sql") if key in ask} for ask in table["ask"]],
        }
        for table in tables
    ]


def ask_judge(judge: str, tables: list[dict]) -> dict[str, list[dict]]:
    """Returns the answers by table. A table during which the process ends is done, and the rest is asked in a new one."""
    answers = {}
    rest = request(tables)
    while rest:
        command = [sys.executable, str(pathlib.Path(__file__).with_name("judge.py")), judge]
        done = subprocess.run(command, input=json.dumps({"tables": rest}), capture_output=True, text=True, check=False)
        said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"table"')]
        begun = [line["table"] for line in said if "begins" in line]
        if not begun:
            print(f"{judge} is absent: {done.stderr.strip().splitlines()[-1:]}")
            return answers
        for line in said:
            if "ask" in line:
                answers.setdefault(line["table"], {})[line["ask"]] = line
        last = begun[-1]
        asks = next(table["asks"] for table in rest if table["name"] == last)
        begin = next(number for number, table in enumerate(rest) if table["name"] == last)
        known = answers.setdefault(last, {})
        if len(known) < len(asks):
            # The first ask without an answer ended the process.
            first = min(set(range(len(asks))) - set(known))
            known[first] = {"ask": first, "aborts": done.stderr.strip()[-300:]}
            # The rest of the table is not asked: each of its asks would end the process.
            for number in range(len(asks)):
                known.setdefault(number, {"ask": number, "aborts": "as the ask before"})
        rest = rest[begin + 1 :]
    return answers


def normal(cell: object) -> object:
    match cell:
        case str() if UUID.fullmatch(cell):
            return cell.replace("-", "")
        case list():
            return [normal(item) for item in cell]
        case dict():
            return {key: normal(item) for key, item in cell.items()}
    return cell


def same(expected: object, got: object) -> bool:
    """Whether a cell is the expected one and of its kind: a NULL is no empty text, true is no 1, and a float is no integer."""
    match expected, got:
        case list(), list():
            return len(expected) == len(got) and all(map(same, expected, got))
        case dict(), dict():
            return list(expected) == list(got) and all(same(expected[key], got[key]) for key in expected)
        case float(), float():
            return repr(expected) == repr(got)
    return type(expected) is type(got) and expected == got


def difference(ask: dict, columns: list[str], rows: list[list[object]]) -> str | None:
    header, *expected = [json.loads(line) for line in ask["rows"].strip().splitlines()]
    expected, rows = normal(expected), normal(rows)
    if "ORDER BY" not in ask["sql"]:
        expected, rows = sorted(expected, key=json.dumps), sorted(rows, key=json.dumps)
    if header != columns:
        return f"columns {columns}, expected {header}"
    return None if same(expected, rows) else f"rows {rows}, expected {expected}"


def verdict(ask: dict, answer: dict | None) -> tuple[str, str]:
    if answer is None:
        return "absent", ""
    if "aborts" in answer:
        return "aborts", answer["aborts"]
    if "error" in answer:
        return "refuses", answer["error"]
    if "rows" not in ask:
        return "reads", str(answer["rows"])[:300]
    differs = difference(ask, answer["columns"], answer["rows"])
    return ("wrong", differs) if differs else ("ok", "")


def digest(name: str, ask: dict) -> str:
    """A checksum of the statement, its rows and the table's files: a verdict holds for these alone. `iceberg_matrix.rs` computes it, too."""
    found = hashlib.sha256()
    for text in (ask["sql"], ask.get("rows", "")):
        found.update(text.encode() + b"\0")
    for path in sorted(path for path in (TABLES / name).rglob("*") if path.is_file()):
        found.update(path.relative_to(TABLES / name).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:16]


def write_verdicts(file: pathlib.Path, tables: list[dict], verdicts: dict) -> None:
    """Writes the lines `judges = {…}` and `judged = "…"` at the end of each ask."""
    names = {table["name"] for table in tables}
    asks = {(table["name"], number): ask for table in tables for number, ask in enumerate(table["ask"])}
    name, number, lines, is_text = None, None, [], False

    def finish() -> None:
        if name in names and number is not None:
            while lines and not lines[-1].strip():
                lines.pop()
            told = verdicts[name, number]
            lines.append("judges = { " + ", ".join(f'{judge} = "{told[judge]}"' for judge in told) + " }")
            lines.append(f'judged = "{digest(name, asks[name, number])}"')
            lines.append("")

    for line in file.read_text().splitlines():
        if not is_text and line in ("[[table]]", "[[table.ask]]"):
            finish()
            if line == "[[table]]":
                name, number = None, None
            else:
                number = 0 if number is None else number + 1
        if name is None and (found := re.match(r'name = "(\w+)"', line)):
            name = found.group(1)
        if line.count("'''") == 1:
            is_text = not is_text
        if is_text or not (line.startswith(("judges = ", "judged = ")) and name in names):
            lines.append(line)
    finish()
    file.write_text("\n".join(lines).rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", nargs="+", default=JUDGES)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--show", action="store_true")
    arguments = parser.parse_args()
    ROOT.mkdir(exist_ok=True)
    copy_fixtures()
    truth = read_truth(arguments.only)
    tables = [table for tables in truth.values() for table in tables]
    answers = {judge: ask_judge(judge, tables) for judge in arguments.judge}

    verdicts, matrix, failures = {}, collections.Counter(), []
    for table in tables:
        for number, ask in enumerate(table["ask"]):
            told = {}
            for judge in arguments.judge:
                told[judge], why = verdict(ask, answers[judge].get(table["name"], {}).get(number))
                matrix[judge, told[judge]] += 1
                if arguments.show and told[judge] != "ok":
                    print(f"{table['name']} {number} {judge} {told[judge]}: {why}\n    {ask['sql']}")
            varies = {judge: said for judge, said in ask.get("judges", {}).items() if said == "varies"}
            verdicts[table["name"], number] = {**ask.get("judges", {}), **told, **varies}
            agree = [judge for judge, said in verdicts[table["name"], number].items() if said == "ok" and judge in FOUR]
            if "rows" in ask and len(agree) < 2 and "few_judges" not in ask:
                failures.append(f"{table['name']} {number}: only {agree or 'nobody'} agrees: {told}")
            known = ask.get("judges", {})
            failures += [
                f"{table['name']} {number}: {judge} says {told[judge]}, the truth has {known[judge]}"
                for judge in told
                if judge in known and known[judge] != "varies" and told[judge] not in (known[judge], "absent")
            ]

    by_others = sum(1 for answered in answers.values() for told in answered.values() for line in told.values() if "filter" in line)
    for failure in failures:
        print(failure)
    asks = sum(len(table["ask"]) for table in tables)
    writers = collections.Counter(table["writer"] for table in tables)
    print(f"{len(tables)} tables ({', '.join(f'{count} by {writer}' for writer, count in writers.items())}), {asks} asks")
    kinds = ["ok", "wrong", "refuses", "aborts", "reads", "absent"]
    print(f"{by_others} conditions over pyiceberg's rows were evaluated by Arrow, the others by DuckDB")
    print(f"{'judge':10}" + "".join(f"{kind:>9}" for kind in kinds))
    for judge in arguments.judge:
        print(f"{judge:10}" + "".join(f"{matrix[judge, kind]:9}" for kind in kinds))
    if arguments.write:
        for file, tables in truth.items():
            write_verdicts(file, tables, verdicts)
    if arguments.check and failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
