"""The command line of `localstack/start`."""

import argparse
import sys
from pathlib import Path

from launcher import EXIT_UNAVAILABLE, Ended, StartError, children
from launcher.ending import Ending
from launcher.environment import ensure_environment
from launcher.server import serve

_EPILOG = f"""\
Ends on SIGTERM, SIGINT and SIGHUP, with every process and temporary folder it made.

Exit codes: 0 ended as told; 1 LocalStack failed, with the reason; 2 wrong usage; {EXIT_UNAVAILABLE} no fitting Python, or its
packages cannot be had.

Examples:
  localstack/start
  localstack/start --port 0 --until-stdin-closes
  "$(localstack/start --print-python)" -c 'import boto3'
"""


def main() -> int:
    arguments = _parser().parse_args()
    ending = Ending(arguments.until_stdin_closes)
    children.adopt_orphans()
    try:
        environment = ensure_environment(ending)
        if arguments.print_python:
            print(environment.python)
        else:
            serve(environment, arguments.port, arguments.state, ending)
    except Ended:
        pass
    except StartError as error:
        print(f"start: {error}", file=sys.stderr)
        return error.code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="localstack/start",
        description="Starts LocalStack on 127.0.0.1 without Docker: S3, Lambda and more, with functions as processes. "
        "Prints `ready http://127.0.0.1:PORT` when it serves.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=_port, default=4566, help="0 takes a free one (default: 4566)")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when stdin does, so with its parent")
    parser.add_argument("--state", type=Path, metavar="FOLDER", help="keep the log there (default: a temporary folder)")
    parser.add_argument(
        "--print-python",
        action="store_true",
        help="start nothing: print the path of the Python with boto3 and pytest, after installing it if need be",
    )
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 1 << 16:
        raise argparse.ArgumentTypeError("a port is at most 65535")
    return port
