"""One life of a function's process with its Runtime API: an init, then invocations one after the other.

Limits are looked at every `SAMPLE_S` and whenever the function answers, so that an answer above a limit never counts. A
sandbox that failed is closed and never used again; its folder goes on to the next.
"""

import queue
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from process_executor import report
from process_executor.process import CannotStart, Folder, FunctionProcess, Usage
from process_executor.report import Failure
from process_executor.runtime_api import (
    Answered,
    AnswerTooLarge,
    Event,
    InitFailed,
    Invocation,
    NextRequested,
    RuntimeApi,
)

SAMPLE_S = 0.05
SETTLE_S = 1.0
"""Longest time from a function's answer to its next request. After it the log is read without waiting. A function asks at once, and is held up
on a busy machine only: lines that it writes later would be those of its next invocation."""


@dataclass(frozen=True)
class Limits:
    memory_mb: int
    temp_mb: int
    payload_bytes_max: int


@dataclass(frozen=True)
class Exited:
    reason: str


class Sandbox:
    """Starts the process at once."""

    def __init__(self, code: Path, variables: Mapping[str, str], folder: Folder, limits: Limits) -> None:
        self._limits = limits
        self._folder = folder
        self._events: queue.SimpleQueue[Event | Exited] = queue.SimpleQueue()
        self._process: FunctionProcess | None = None
        self._cannot_start: Failure | None = None
        self._usage = Usage()
        self._api = RuntimeApi(limits.payload_bytes_max, self._on_event)
        environment = {**variables, "AWS_LAMBDA_RUNTIME_API": self._api.address}
        try:
            self._process = FunctionProcess(code, environment, folder, lambda why: self._events.put(Exited(why)))
        except CannotStart as error:
            self._cannot_start = Failure("Runtime.InvalidEntrypoint", str(error))

    @property
    def usage(self) -> Usage:
        return self._usage

    def init(self, deadline: float, limit_s: float) -> Failure | None:
        """Waits until the function asks for its first invocation."""
        if self._cannot_start:
            return self._cannot_start
        match self._next_event(deadline):
            case NextRequested():
                return None
            case InitFailed(body, error_type):
                return Failure(error_type, "init failed", own_payload=body)
            case Failure() as failure:
                return failure
            case Exited(reason):
                return report.exited(reason)
            case Answered() | AnswerTooLarge():
                return report.exited("Runtime answered before it was asked")
            case None:
                return report.timed_out(limit_s)

    def invoke(self, invocation: Invocation, deadline: float, limit_s: float) -> Answered | Failure:
        self._api.offer(invocation)
        while True:
            match self._next_event(deadline):
                case Answered() as answer:
                    self._settle(deadline)
                    return answer
                case AnswerTooLarge():
                    self._settle(deadline)
                    return report.response_too_large(self._limits.payload_bytes_max)
                case Failure() as failure:
                    return failure
                case Exited(reason):
                    return report.exited(reason)
                case NextRequested():
                    continue  # of the last invocation, later than its settling
                case InitFailed(body, error_type):
                    return Failure(error_type, "init failed", own_payload=body)
                case None:
                    return report.timed_out(limit_s)

    def has_ended(self) -> bool:
        """Returns true if the process is gone since its last answer."""
        while not self._events.empty():
            if isinstance(self._events.get(), Exited):
                return True
        return False

    def close(self) -> None:
        self._api.close()
        if self._process:
            self._process.kill()

    def _on_event(self, event: Event) -> None:
        self._sample()
        self._events.put(event)

    def _sample(self) -> None:
        if self._process:
            self._usage = self._process.usage()

    def _next_event(self, deadline: float) -> Event | Exited | Failure | None:
        """Waits for the next event, None at the deadline. A broken limit comes before everything else."""
        while True:
            event: Event | Exited | None = None
            left = deadline - time.monotonic()
            try:
                event = self._events.get(timeout=max(0, min(SAMPLE_S, left)))
            except queue.Empty:
                self._sample()
                self._folder.bound_log()
            if failure := self._over_limit():
                return failure
            if event is not None or left <= 0:
                return event

    def _over_limit(self) -> Failure | None:
        if self._usage.memory_mb > self._limits.memory_mb:
            return report.out_of_memory()
        if self._usage.temp_mb > self._limits.temp_mb:
            return report.out_of_temp(self._usage.temp_mb, self._limits.temp_mb)
        return None

    def _settle(self, deadline: float) -> None:
        """Waits for the next request: on AWS it ends the invocation, and earlier log lines belong to this one."""
        try:
            event = self._events.get(timeout=max(0, min(SETTLE_S, deadline - time.monotonic())))
        except queue.Empty:
            return
        if isinstance(event, Exited):
            self._events.put(event)  # for `has_ended`
