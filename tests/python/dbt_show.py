"""Asks a server of Gust as dbt does, by its adapter for PostgreSQL: dbt_show.py PORT.

The server has a table `t` with `k` from 1 to 1,000 and `name`. The last line of the output is `ok`.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

PROJECT = """
name: lab
version: "1.0"
profile: gust
models:
  lab:
    +materialized: view
"""

PROFILES = """
gust:
  target: dev
  outputs:
    dev: {{type: postgres, host: 127.0.0.1, port: {port}, user: ada, password: any, dbname: gust, schema: public, threads: 2}}
"""

MODELS = {
    "few": "SELECT k, name FROM {{ target.schema }}.t WHERE k < 3 ORDER BY k",
    "sums": "SELECT k % 2 AS odd, count(*) AS n, sum(k) AS s FROM public.t GROUP BY 1 ORDER BY 1",
    "typed": "SELECT true AS b, CAST(1.50 AS DECIMAL(4, 2)) AS d, DATE '2024-02-29' AS day, CAST(NULL AS INT) AS n",
    "wrong": "SELECT missing FROM public.t",
}


def dbt(folder, *arguments):
    environment = os.environ | {"DO_NOT_TRACK": "1", "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}
    command = [pathlib.Path(sys.executable).with_name("dbt"), "--quiet", *arguments, "--profiles-dir", ".", "--project-dir", "."]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def shown(folder, *chosen):
    done = dbt(folder, "show", *chosen, "--output", "json")
    assert done.returncode == 0, (chosen, done.stdout, done.stderr)
    return json.loads(done.stdout[done.stdout.index("{"):])["show"]


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "models").mkdir()
        (folder / "dbt_project.yml").write_text(PROJECT)
        (folder / "profiles.yml").write_text(PROFILES.format(port=int(sys.argv[1])))
        for model, sql in MODELS.items():
            (folder / "models" / f"{model}.sql").write_text(sql)
        tried = dbt(folder, "debug")
        assert tried.returncode == 0, (tried.stdout, tried.stderr)
        for chosen, expect in [
            (["--select", "few"], [{"k": 1, "name": "n1"}, {"k": 2, "name": "n2"}]),
            (["--select", "sums"], [{"odd": 0, "n": 500, "s": 250500}, {"odd": 1, "n": 500, "s": 250000}]),
            (["--select", "typed"], [{"b": True, "d": 1.5, "day": "2024-02-29", "n": None}]),
            (["--inline", "SELECT count(*) AS n FROM public.t"], [{"n": 1000}]),
            (["--inline", "SELECT max(k) AS m FROM {{ ref('few') }}"], None),
        ]:
            if expect is None:
                # A model that was not built is no relation. The server has no writes, so that none can be.
                done = dbt(folder, "show", *chosen)
                assert done.returncode != 0 and "few" in done.stdout + done.stderr, (done.stdout, done.stderr)
                continue
            seen = shown(folder, *chosen)
            assert seen == expect, (chosen, seen)
            print(*chosen, "as expected", flush=True)
        done = dbt(folder, "show", "--select", "wrong")
        assert done.returncode != 0 and "missing" in done.stdout + done.stderr, (done.stdout, done.stderr)
    print("ok")


if __name__ == "__main__":
    main()
