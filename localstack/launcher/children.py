"""Processes that do not outlive us.

We become the parent of whatever our children leave behind (Linux's subreaper), so `sweep` finds a function of a killed
LocalStack, too.
"""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from launcher import StartError
from launcher.ending import Ending

_PR_SET_CHILD_SUBREAPER = 36
_SWEEP_S_MAX = 5


def adopt_orphans() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def sweep() -> None:
    """Kills all our children, and theirs as they become ours."""
    until = time.monotonic() + _SWEEP_S_MAX
    while (children := _children()) and time.monotonic() < until:
        for child in children:
            _kill(child)
        for child in children:
            try:
                os.waitpid(child, 0)
            except ChildProcessError:
                pass


def stop(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Asks the child to end, then kills it."""
    process.terminate()
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run(command: Sequence[str | Path], log: Path, seconds_max: float, ending: Ending) -> None:
    """Runs a command to its end.

    Raises:
        StartError: if it fails or takes too long, with the end of what it wrote
        Ended: after killing it
    """
    what = " ".join(Path(part).name if index == 0 else str(part) for index, part in enumerate(command[:4]))
    until = time.monotonic() + seconds_max
    with open(log, "wb") as output:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        except OSError as error:
            raise StartError(f"cannot run {what}: {error.strerror}") from error
    try:
        while process.poll() is None:
            if time.monotonic() > until:
                raise StartError(f"`{what} …` took longer than {seconds_max:.0f} s\n{last_lines(log, 5)}")
            ending.wait(until - time.monotonic())
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise StartError(f"`{what} …` failed with status {process.returncode}\n{last_lines(log, 10)}")


def last_lines(log: Path, count: int) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return "(there is no log)"
    return "\n".join(f"  {line}" for line in lines[-count:])


def _children() -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_text(errors="replace")
            except OSError:
                continue
            # pid (name) state parent …; a name may hold spaces and brackets
            if int(stat.rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(entry))
    return found


def _kill(process_id: int) -> None:
    try:
        os.kill(process_id, signal.SIGKILL)
    except ProcessLookupError:
        pass
