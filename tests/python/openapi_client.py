"""Tries a server by its OpenAPI with schemathesis: URL SECRET EXAMPLES SEED."""

import subprocess
import sys
import tempfile
from pathlib import Path

url, secret, examples, seed = sys.argv[1:]
settings = Path(__file__).with_name("schemathesis.toml")
# The environment's scripts name the folder in which it was made.
call = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"]
run = ["run", f"{url}/openapi.json", "--checks", "all", "--max-examples", examples, "--seed", seed]
# DELETE cancels a statement, and forgets it with `?forget=true` alone.
run += ["--exclude-checks", "use_after_free"]
more = ["-H", f"Authorization: Bearer {secret}", "--continue-on-failure", "--request-timeout", "60", "--no-color"]
with tempfile.TemporaryDirectory() as folder:
    # It keeps a cache where it runs.
    command = [*call, "--config-file", str(settings), *run, *more]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
print(done.stdout)
if done.returncode != 0:
    sys.exit(done.stdout + done.stderr)
