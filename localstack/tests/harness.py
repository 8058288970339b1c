"""A started LocalStack, its clients, and its functions."""

import base64
import io
import json
import os
import select
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

HERE = Path(__file__).resolve().parent
START = HERE.parent / "start"
READY_S_MAX = 90
# Seconds after which something counts as not to come: no busy machine takes as long.
ENDS_S_MAX = 60
ROLE = "arn:aws:iam::000000000000:role/function"
# Seconds between two looks of boto3's waiters, which look every one to five seconds by themselves.
OFTEN = {"Delay": 0.05, "MaxAttempts": 1200}


class Started:
    """A running `localstack/start`; it ends with the stdin that it was given."""

    def __init__(self, *arguments: str, variables: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, START, "--until-stdin-closes", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(variables or {})},
        )
        self.first_line = self._first_line()

    @property
    def url(self) -> str:
        word, url = self.first_line.split()
        assert word == "ready", self.first_line
        return url

    @property
    def host_pid(self) -> int:
        """Returns LocalStack's own process. Orphans of functions are children of the launcher, too, until it reaps them."""
        return next(child for child in children_of(self.process.pid) if is_host(child))

    def stop(self) -> tuple[int, str, str]:
        """Returns the exit code, the rest of stdout, and stderr."""
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()
            self.process.stdin = None
        stdout, stderr = self.process.communicate(timeout=ENDS_S_MAX)
        return self.process.returncode, stdout, stderr

    def _first_line(self) -> str:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], READY_S_MAX)[0]:
            self.process.kill()
            raise AssertionError(f"no line within {READY_S_MAX} s")
        return self.process.stdout.readline()


@dataclass(frozen=True)
class Answer:
    """Answer of an invocation to its caller."""

    status: int
    error: str | None
    payload: Any
    log: str

    def report(self) -> dict[str, str]:
        """Returns the fields of the REPORT line."""
        line = next(line for line in self.log.splitlines() if line.startswith("REPORT "))
        return dict(field.split(": ", 1) for field in line.removeprefix("REPORT ").split("\t") if field)


class Cloud:
    """Clients of one LocalStack. They never retry: a test sees each answer."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.awslambda = self.client("lambda")
        self.s3 = self.client("s3")
        self._named = 0

    def client(self, service: str, **settings: Any) -> Any:
        config = Config(
            retries={"max_attempts": 0},
            max_pool_connections=64,
            read_timeout=60,
            s3={"addressing_style": "path"},
            signature_version=settings.pop("signature_version", None),
        )
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key=settings.pop("secret", "test"),
            config=config,
        )

    def deploy(self, code: bytes | None = None, *, init: str = "", **settings: Any) -> "Function":
        self._named += 1
        name = f"function-{self._named}"
        variables = {"OWN": "own value", "INIT": init}
        defaults = {"Timeout": 20, "MemorySize": 128, "Runtime": "provided.al2023", "Handler": "bootstrap", "Role": ROLE}
        self.awslambda.create_function(
            FunctionName=name,
            Code={"ZipFile": code or function_zip()},
            Environment={"Variables": variables},
            **{**defaults, **settings},
        )
        self.awslambda.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig=OFTEN)
        return Function(self, name)


@dataclass(frozen=True)
class Function:
    cloud: Cloud
    name: str

    def invoke(self, **event: Any) -> Answer:
        answer = self.cloud.awslambda.invoke(FunctionName=self.name, Payload=json.dumps(event), LogType="Tail")
        log = base64.b64decode(answer["LogResult"]).decode()
        return Answer(answer["StatusCode"], answer.get("FunctionError"), json.loads(answer["Payload"].read()), log)


def function_zip(name: str = "bootstrap", script: str | None = None) -> bytes:
    """Packs the tests' function, or another script."""
    # The script runs on the test's own Python, which starts twice as fast without site-packages.
    text = script or f"#!{sys.executable} -IS\n{(HERE / 'bootstrap.py').read_text()}"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = 0o755 << 16
        archive.writestr(entry, text)
    return packed.getvalue()


def children_of(process: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process:
            found.append(int(path.parent.name))
    return found


def is_host(process: int) -> bool:
    try:
        return "process_executor.host" in Path(f"/proc/{process}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return False


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(holds: Callable[[], bool], seconds: float = ENDS_S_MAX) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.05)
    return holds()
