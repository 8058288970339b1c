"""Runs LocalStack in this process with the functions of `process_executor`; `localstack/start` is what starts it.

    python -m process_executor.host --ready-descriptor 3 --parent PID [--remove FOLDER]

It writes `ready` to the descriptor when LocalStack serves with our executor, on its port and on loopback only; else it ends
with the reason on stderr. On SIGTERM, and when its parent dies, it kills the functions and ends at once: nothing is kept.
"""

import argparse
import ctypes
import ipaddress
import os
import signal
import sys
import threading
from pathlib import Path

import psutil
from localstack import config
from localstack.logging.setup import setup_logging_from_config
from localstack.runtime import current
from localstack.runtime.runtime import LocalstackRuntime
from localstack.services.lambda_.invocation.runtime_executor import EXECUTOR_PLUGIN_MANAGER, get_runtime_executor

from process_executor.executor import ProcessRuntimeExecutor, stop_all
from process_executor.process import remove as remove_folder

EXIT_FAILED = 1
EXIT_PORT_TAKEN = 3
_PR_SET_PDEATHSIG = 1


def main() -> None:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: _stop(arguments.parent, arguments.remove))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: it reaches our parent, too
    _die_with(arguments.parent)
    _require_our_executor()
    setup_logging_from_config()
    runtime = current.initialize_runtime()
    announce = threading.Thread(target=_announce, args=(runtime, arguments.ready_descriptor), daemon=True)
    announce.start()
    runtime.run()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="process_executor.host")
    parser.add_argument("--ready-descriptor", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--remove", type=Path)
    return parser.parse_args()


def _die_with(parent: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        _fail("the process that started it is gone", EXIT_FAILED)


def _require_our_executor() -> None:
    # LocalStack takes Docker for a name that it does not know, and says so only in its log.
    name = config.LAMBDA_RUNTIME_EXECUTOR
    if not EXECUTOR_PLUGIN_MANAGER.exists(name) or get_runtime_executor() is not ProcessRuntimeExecutor:
        _fail(f"LocalStack would not run functions with this plugin: it does not find `{name}`", EXIT_FAILED)


def _announce(runtime: LocalstackRuntime, descriptor: int) -> None:
    runtime.ready.wait()
    port = config.GATEWAY_LISTEN[0].port
    listening = [c.laddr for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    # LocalStack calls itself ready when anybody answers on its port.
    if not any(address.port == port for address in listening):
        _fail(f"port {port} is taken", EXIT_PORT_TAKEN)
    for address in listening:
        if not ipaddress.ip_address(address.ip).is_loopback:
            _fail(f"LocalStack listens on {address.ip}:{address.port}, which others can reach", EXIT_FAILED)
    os.write(descriptor, b"ready\n")
    os.close(descriptor)


def _stop(parent: int, remove: Path | None) -> None:
    stop_all()
    if os.getppid() != parent and remove is not None:
        remove_folder(remove)
    # LocalStack's own way out waits for requests, and for a loop that nobody wakes up.
    os._exit(0)


def _fail(reason: str, code: int) -> None:
    print(f"localstack: {reason}", file=sys.stderr, flush=True)
    os._exit(code)


if __name__ == "__main__":
    main()
