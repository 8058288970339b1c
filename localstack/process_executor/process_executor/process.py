"""The function's `bootstrap` as a process of its own group, with a temp folder and a log.

    folder/            one per execution environment
      tmp/             TMPDIR and HOME of the function; survives a restart of the process, as /tmp does on AWS
      log              stdout and stderr
"""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

LOG_FILE_BYTES_MAX = 16 * 1024 * 1024
REMOVE_S_MAX = 5
REMOVE_PAUSE_S = 0.02
MB = 1024 * 1024


class CannotStart(Exception):
    """The `bootstrap` cannot be run; the message is AWS's."""


@dataclass(frozen=True)
class Usage:
    """Use of a process, in MB rounded up. Memory is its largest use so far, temp its present use."""

    memory_mb: int = 0
    temp_mb: int = 0


class Folder:
    """An environment's files."""

    def __init__(self, name: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"function-{name}-"))
        self.temp = self.path / "tmp"
        self.temp.mkdir()
        self._log = self.path / "log"
        self._log.touch(mode=0o600)
        self._read_to = 0

    def open_log(self) -> IO[bytes]:
        """Opens the log for the function, to append, so that it can be emptied while the function writes."""
        return open(self._log, "ab", buffering=0)

    def take_log(self) -> str:
        """Returns the text that was written since the last call."""
        with open(self._log, "rb") as log:
            log.seek(self._read_to)
            text = log.read(LOG_FILE_BYTES_MAX)
        self._read_to += len(text)
        return text.decode(errors="replace")

    def bound_log(self) -> None:
        """Empties a log that grew beyond all measure."""
        if self._log.exists() and self._log.stat().st_size > LOG_FILE_BYTES_MAX:
            os.truncate(self._log, 0)
            self._read_to = 0

    def temp_mb(self) -> int:
        total = 0
        for parent, _, names in os.walk(self.temp):
            for name in names:
                try:
                    total += os.lstat(os.path.join(parent, name)).st_blocks * 512
                except OSError:
                    pass  # deleted meanwhile
        return -(-total // MB)

    def remove(self) -> None:
        remove(self.path)


def remove(folder: Path) -> None:
    """Removes a folder in which others may still write. Files that they add meanwhile keep it there, so that it is emptied again."""
    until = time.monotonic() + REMOVE_S_MAX
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists() or time.monotonic() > until:
            return
        time.sleep(REMOVE_PAUSE_S)


class FunctionProcess:
    """A process that runs from construction until it exits or is killed. `on_exit` is called once with the reason, in AWS's words."""

    def __init__(
        self, code: Path, environment: Mapping[str, str], folder: Folder, on_exit: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._peak_mb = 0
        bootstrap = code / "bootstrap"
        if not bootstrap.exists():
            raise CannotStart("Couldn't find valid bootstrap(s): [/var/task/bootstrap /opt/bootstrap]")
        try:
            with folder.open_log() as log:
                self._process = subprocess.Popen(
                    [str(bootstrap)],
                    cwd=code,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise CannotStart(f"fork/exec /var/task/bootstrap: {reason}") from error
        self._waiter = threading.Thread(target=self._wait, args=(on_exit,), name="function-exit", daemon=True)
        self._waiter.start()

    def usage(self) -> Usage:
        """Returns the use of the process itself, without the children that it starts. After its end it is the last sample."""
        try:
            with open(f"/proc/{self._process.pid}/status", encoding="ascii", errors="replace") as status:
                for line in status:
                    if line.startswith("VmHWM:"):
                        self._peak_mb = max(self._peak_mb, -(-int(line.split()[1]) // 1024))
                        break
        except OSError:
            pass
        return Usage(self._peak_mb, self._folder.temp_mb())

    def kill(self) -> None:
        """Ends the process and the processes that it started."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._waiter.join(timeout=5)

    def _wait(self, on_exit: Callable[[str], None]) -> None:
        on_exit(exit_reason(self._process.wait()))


def exit_reason(status: int) -> str:
    """Returns AWS's words for the end of a runtime."""
    if status == 0:
        return "Runtime exited without providing a reason"
    if status > 0:
        return f"Runtime exited with error: exit status {status}"
    name = (signal.strsignal(-status) or f"signal {-status}").lower()
    return f"Runtime exited with error: signal: {name}"
