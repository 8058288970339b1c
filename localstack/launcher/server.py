"""One LocalStack, from its start until its last process and file are gone."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from launcher import Ended, StartError, children
from launcher.ending import Ending
from launcher.environment import Environment

_READY_S_MAX = 60
_STOP_S_MAX = 10
_FREE_PORT_TRIES = 3
_HOST_EXIT_PORT_TAKEN = 3  # process_executor.host.EXIT_PORT_TAKEN
_GIB = 1 << 30


class PortTaken(StartError):
    pass


def serve(environment: Environment, port: int, state: Path | None, ending: Ending) -> None:
    """Serves until told to end, then cleans up.

    Raises:
        StartError: if LocalStack does not start, or ends by itself
    """
    try:
        if state is not None:
            state.mkdir(parents=True, exist_ok=True)
        folder = state.resolve() if state else Path(tempfile.mkdtemp(prefix="gust-localstack-"))
    except OSError as error:
        raise StartError(f"cannot make the state folder: {error}") from error
    try:
        for left in reversed(range(_FREE_PORT_TRIES if port == 0 else 1)):
            try:
                return _serve_on(environment, _free_port(port), folder, state is None, ending)
            except PortTaken:
                # Somebody was faster to take a port that was free a moment ago.
                if left == 0:
                    raise
    except Ended:
        pass
    finally:
        children.sweep()
        _clean(folder, is_ours=state is None)


def _serve_on(environment: Environment, port: int, folder: Path, is_temporary: bool, ending: Ending) -> None:
    log = folder / "localstack.log"
    for name in ("home", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    ready, tell_ready = os.pipe()
    command: list[str | Path] = [environment.python, "-P", "-m", "process_executor.host"]
    command += ["--ready-descriptor", str(tell_ready), "--parent", str(os.getpid())]
    if is_temporary:
        command += ["--remove", folder]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_variables(environment, port, folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[tell_ready],
            # Ctrl-C in a terminal is for us. We end LocalStack in good order.
            start_new_session=True,
        )
    os.close(tell_ready)
    try:
        _wait_until_ready(process, ready, port, log, ending)
        print(f"ready http://127.0.0.1:{port}", flush=True)
        while process.poll() is None:
            ending.wait(3600)
        raise StartError(f"LocalStack ended by itself, status {process.returncode}\n{children.last_lines(log, 20)}")
    finally:
        os.close(ready)
        children.stop(process, _STOP_S_MAX)


def _wait_until_ready(
    process: "subprocess.Popen[bytes]", ready: int, port: int, log: Path, ending: Ending
) -> None:
    until = time.monotonic() + _READY_S_MAX
    os.set_blocking(ready, False)
    while True:
        try:
            if os.read(ready, 16):
                return
            process.wait(timeout=_STOP_S_MAX)  # it closed the pipe without a word
        except BlockingIOError:
            pass
        if process.poll() == _HOST_EXIT_PORT_TAKEN:
            raise PortTaken(_taken(port))
        if process.poll() is not None:
            reason = f"LocalStack does not start, status {process.returncode}"
            raise StartError(f"{reason}\n{children.last_lines(log, 20)}")
        if time.monotonic() > until:
            raise StartError(f"LocalStack is not ready after {_READY_S_MAX} s\n{children.last_lines(log, 20)}")
        ending.wait(1, ready)


def _free_port(port: int) -> int:
    with socket.socket() as probe:
        # Connections of an earlier server that wait for their end do not matter. A listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortTaken(f"{_taken(port)} ({error.strerror})") from error
        return int(probe.getsockname()[1])


def _taken(port: int) -> str:
    return f"port {port} is taken\nhint: --port 0 takes a free one"


def _variables(environment: Environment, port: int, folder: Path) -> dict[str, str]:
    """Returns LocalStack's whole environment. A proxy, profile or setting of the user must not change its behaviour."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "DEBUG", "LS_LOG") if name in os.environ}
    return kept | {
        "PYTHONPATH": str(environment.plugin),
        # LocalStack caches entry points in the home folder. A cache from before the plugin would hide it.
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "FILESYSTEM_ROOT": str(folder / "root"),
        "OVERRIDE_IN_DOCKER": "0",
        # Everything listens on loopback only: the default server would listen on every address, whatever its settings say.
        "GATEWAY_SERVER": "hypercorn",
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "LOCALSTACK_HOST": f"127.0.0.1:{port}",
        "DNS_ADDRESS": "0",
        # LocalStack fetches nothing and tells nobody anything.
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        # Presigned URLs are checked.
        "S3_SKIP_SIGNATURE_VALIDATION": "0",
        "LAMBDA_RUNTIME_EXECUTOR": "process",
        # Programs with debug information are larger than AWS allows.
        "LAMBDA_LIMITS_CODE_SIZE_ZIPPED": str(_GIB),
        "LAMBDA_LIMITS_CODE_SIZE_UNZIPPED": str(_GIB),
        "LAMBDA_LIMITS_CREATE_FUNCTION_REQUEST_SIZE": str(_GIB),
    }


def _clean(folder: Path, is_ours: bool) -> None:
    """Removes LocalStack's data, which does not outlive it. A folder that was given keeps the log."""
    if is_ours:
        shutil.rmtree(folder, ignore_errors=True)
    for name in ("home", "tmp", "root"):
        shutil.rmtree(folder / name, ignore_errors=True)
