"""The life of `localstack/start`: side by side, ends of every kind, and nothing left behind."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness import ENDS_S_MAX, START, Cloud, Started, children_of, is_alive, is_host, wait_until
from process_executor.process import remove


@pytest.fixture
def temp(tmp_path: Path) -> dict[str, str]:
    """Variables that put temporary folders where a test can look."""
    return {"TMPDIR": str(tmp_path)}


@pytest.fixture
def busy(temp: dict[str, str]) -> Iterator[tuple[Started, int]]:
    """A LocalStack and the process of a function in it that works for minutes."""
    started = Started("--port", "0", variables=temp)
    yield started, busy_function(started.url)
    started.process.kill()


def busy_function(url: str) -> int:
    function = Cloud(url).deploy(Timeout=600)
    process = int(function.invoke().payload["pid"])

    def work() -> None:
        try:
            function.invoke(do="sleep", s=500)
        except Exception:
            pass  # the server goes away under it

    threading.Thread(target=work, daemon=True).start()
    return process


def start(*arguments: str, python: str = sys.executable, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **variables}
    command = [python, str(START), *arguments]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, env=environment
    )


# Settings of a user for AWS, proxies and Python, which change nothing.
ODD = {
    "AWS_PROFILE": "no-such-profile",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "http_proxy": "http://127.0.0.1:1",
    "SERVICES": "sqs",
    "LAMBDA_RUNTIME_EXECUTOR": "docker",
    "PYTHONPATH": "/nonexistent",
}


def test_two_at_once_share_nothing_whatever_the_users_settings(temp: dict[str, str]) -> None:
    started: list[Any] = [None, None]

    def begin(index: int) -> None:
        started[index] = Started("--port", "0", variables={**temp, **(ODD if index else {})})

    threads = [threading.Thread(target=begin, args=(index,)) for index in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, other = started
    assert one.url != other.url
    Cloud(one.url).s3.create_bucket(Bucket="only-here")
    cloud = Cloud(other.url)
    assert cloud.s3.list_buckets()["Buckets"] == []
    assert cloud.deploy().invoke().error is None
    assert one.stop()[0] == 0
    assert cloud.deploy().invoke().error is None, "the other one's end does not matter"
    assert other.stop()[0] == 0


def test_everything_listens_on_loopback_and_ends_with_stdin(busy: tuple[Started, int], tmp_path: Path) -> None:
    started, function = busy
    host = started.host_pid
    listening = [
        connection.laddr.ip
        for process in psutil.Process(started.process.pid).children(recursive=True)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 2, "the gateway and a Runtime API"
    assert set(listening) == {"127.0.0.1"}
    assert started.stop() == (0, "", "")
    assert not is_alive(host) and not is_alive(function)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it(temp: dict[str, str], tmp_path: Path, number: signal.Signals) -> None:
    started = Started("--port", "0", variables=temp)
    host = started.host_pid
    started.process.send_signal(number)
    assert started.process.wait(timeout=ENDS_S_MAX) == 0
    assert not is_alive(host)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_parent_leaves_nothing(tmp_path: Path) -> None:
    # The parent holds the other end of start's stdin, as a test that starts LocalStack does.
    script = (
        "import subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, {str(START)!r}, '--port', '0', '--until-stdin-closes'], stdin=subprocess.PIPE)\n"
        "p.wait()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert parent.stdout is not None
    url = parent.stdout.readline().split()[1]
    function = busy_function(url)
    (starter,) = children_of(parent.pid)
    (host,) = filter(is_host, children_of(starter))
    parent.kill()
    parent.wait()
    assert wait_until(lambda: not any(map(is_alive, (starter, host, function))))
    assert list(tmp_path.iterdir()) == []


def test_a_killed_start_leaves_nothing(busy: tuple[Started, int], tmp_path: Path) -> None:
    started, function = busy
    host = started.host_pid
    started.process.kill()
    started.process.wait()
    assert wait_until(lambda: not is_alive(host) and not is_alive(function))
    assert wait_until(lambda: list(tmp_path.iterdir()) == [])


def test_a_folder_goes_though_others_write_into_it(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    # There are so many files that emptying the folder once takes longer than the writer's next file.
    for number in range(3000):
        (folder / f"old-{number}").touch()
    ended = threading.Event()

    def write() -> None:
        # The writer goes on until there is no folder, as a server's threads do while it ends.
        for number in range(1_000_000):
            try:
                (folder / str(number)).touch()
            except FileNotFoundError:
                break
        ended.set()

    threading.Thread(target=write, daemon=True).start()
    assert wait_until((folder / "100").exists)
    remove(folder)
    assert not folder.exists() and ended.wait(ENDS_S_MAX)


def test_a_killed_localstack_is_an_error_and_its_functions_end(busy: tuple[Started, int], tmp_path: Path) -> None:
    started, function = busy
    os.kill(started.host_pid, signal.SIGKILL)
    assert started.process.wait(timeout=ENDS_S_MAX) == 1
    assert started.process.stderr is not None
    assert "LocalStack ended by itself, status -9" in started.process.stderr.read()
    assert not is_alive(function)
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_named() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        ended = start("--port", str(port))
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith(f"start: port {port} is taken")
    assert "hint: --port 0 takes a free one" in ended.stderr


def test_a_port_that_another_takes_meanwhile_is_named(started: Started, tmp_path: Path) -> None:
    host = psutil.Process(started.host_pid)
    # It has folders of its own: the first one goes on.
    own = {"FILESYSTEM_ROOT": str(tmp_path / "root"), "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    variables = {**host.environ(), **own}
    second = run_host(variables)
    port = started.url.rpartition(":")[2]
    assert second.returncode == 3
    assert second.stderr.endswith(f"localstack: port {port} is taken\n")


def test_localstack_without_our_executor_does_not_start(tmp_path: Path) -> None:
    # The sources alone do not tell LocalStack about the plugin. It then takes Docker.
    sources = str(START.parent / "process_executor")
    variables = {"PYTHONPATH": sources, "HOME": str(tmp_path), "LAMBDA_RUNTIME_EXECUTOR": "process"}
    ended = run_host({**os.environ, **variables})
    assert ended.returncode == 1
    assert "localstack: LocalStack would not run functions with this plugin" in ended.stderr


def run_host(variables: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    ready, tell_ready = os.pipe()
    options = ["--ready-descriptor", str(tell_ready), "--parent", str(os.getpid())]
    try:
        return subprocess.run(
            [sys.executable, "-P", "-m", "process_executor.host", *options],
            env=variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[tell_ready],
            text=True,
            timeout=60,
        )
    finally:
        os.close(ready)
        os.close(tell_ready)


def test_a_python_that_does_not_fit_is_named() -> None:
    script = f"import runpy, sys; sys.version_info = (3, 9, 1); sys.argv = ['start']; runpy.run_path({str(START)!r})"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={"PATH": "/nonexistent"})
    assert ended.returncode == 69
    assert ended.stderr.startswith("start: LocalStack needs Python 3.11 to 3.13, and this is 3.9\nhint: install")


def test_packages_that_cannot_be_had_are_named_and_nothing_half_made_stays(tmp_path: Path) -> None:
    unreachable = {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    ended = start("--port", "0", XDG_CACHE_HOME=str(tmp_path), **unreachable)
    assert ended.returncode == 69
    assert "start: cannot make the Python environment: " in ended.stderr
    assert "hint: it needs a Python package index" in ended.stderr
    assert [path.name for path in (tmp_path / "gust").iterdir()] == ["localstack.lock"]


def test_stdin_ends_an_installation_too(tmp_path: Path) -> None:
    ended = start("--port", "0", "--until-stdin-closes", XDG_CACHE_HOME=str(tmp_path))
    assert (ended.returncode, ended.stdout) == (0, "")
    assert [path.name for path in (tmp_path / "gust").iterdir()] == ["localstack.lock"]


def test_wrong_usage() -> None:
    assert start("--port", "65536").returncode == 2
    assert start("--prot", "0").returncode == 2
