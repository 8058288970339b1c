"""Signs that tell us to end: SIGTERM, SIGINT, SIGHUP or, if asked for, the end of our stdin."""

import os
import select
import signal
import socket
import time
from types import FrameType

from launcher import Ended

_STDIN = 0


class Ending:
    """Watch for the signs. The main thread makes it once."""

    def __init__(self, until_stdin_closes: bool) -> None:
        self._is_told = False
        self._watches_stdin = until_stdin_closes
        # Signals wake `wait` up, those of ending children too.
        self._wake, wake_up = socket.socketpair()
        self._wake.setblocking(False)
        wake_up.setblocking(False)
        self._wake_up = wake_up
        signal.set_wakeup_fd(wake_up.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)

    def wait(self, seconds: float, *descriptors: int) -> None:
        """Returns after that long or sooner: when a child ends or a descriptor can be read.

        Raises:
            Ended: at once, and on every later call.
        """
        until = time.monotonic() + seconds
        watched: list[int] = [self._wake.fileno(), *descriptors]
        if self._watches_stdin:
            watched.append(_STDIN)
        while not self._is_told:
            left = until - time.monotonic()
            try:
                readable, _, _ = select.select(watched, [], [], max(0, left))
            except OSError:  # stdin is not even open
                self._is_told = True
                break
            if self._wake.fileno() in readable:
                self._drain()
            if _STDIN in readable and not os.read(_STDIN, 4096):
                self._is_told = True
            elif readable != [_STDIN] or left <= 0:
                break
        if self._is_told:
            raise Ended

    def _drain(self) -> None:
        try:
            while self._wake.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._is_told = True
