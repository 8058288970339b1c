"""The lines and error payloads of AWS Lambda around an invocation. Pure functions: text from numbers.

    <what the function wrote while it started>
    INIT_REPORT Init Duration: 12.30 ms  Phase: init  Status: error  Error Type: Runtime.ExitError      (failed inits only)
    START RequestId: … Version: $LATEST
    <what the function wrote>
    <the platform's failure>
    END RequestId: …
    REPORT RequestId: …  Duration: …  Billed Duration: …  Memory Size: …  Max Memory Used: …  Init Duration: …  Status: …
"""

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

LOG_BYTES_MAX = 256 * 1024
"""Bytes of one invocation's log. The end is kept."""


class Phase(StrEnum):
    INIT = "init"
    INVOKE = "invoke"


@dataclass(frozen=True)
class Failure:
    """Reason why the platform, not the function, ended an invocation or an init."""

    error_type: str
    message: str
    """Message without the request's id, which `payload` and `lines` add in AWS's place."""
    report_type: str = ""
    """Error type of the REPORT line, if it differs."""
    own_payload: bytes | None = None
    """Error that the function itself posted."""

    @property
    def is_timeout(self) -> bool:
        return self.error_type == "Sandbox.Timedout"

    def payload(self, request_id: str) -> bytes:
        """Returns the caller's payload."""
        if self.own_payload is not None:
            return self.own_payload
        message = f"RequestId: {request_id} Error: {self.message}"
        return json.dumps({"errorType": self.error_type, "errorMessage": message}).encode()

    def lines(self, request_id: str, now: datetime) -> str:
        """Returns the lines of the log."""
        if self.is_timeout:
            stamp = now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            return f"{stamp} {request_id} {self.message}\n\n"
        if self.own_payload is not None:
            return ""
        return f"RequestId: {request_id} Error: {self.message}\n{self.error_type}\n"

    def status(self) -> str:
        """Returns the last fields of a REPORT or INIT_REPORT line."""
        if self.is_timeout:
            return "Status: timeout"
        return f"Status: error\tError Type: {self.report_type or self.error_type}"


def timed_out(after_s: float) -> Failure:
    return Failure("Sandbox.Timedout", f"Task timed out after {after_s:.2f} seconds")


def exited(reason: str) -> Failure:
    return Failure("Runtime.ExitError", reason)


def out_of_memory() -> Failure:
    return Failure("Runtime.ExitError", "Runtime exited with error: signal: killed", "Runtime.OutOfMemory")


def out_of_temp(used_mb: int, allowed_mb: int) -> Failure:
    """Makes an end that AWS does not have: there the write itself fails with ENOSPC, which a folder cannot do."""
    reason = f"Runtime killed: its temp folder holds {used_mb} MB of {allowed_mb} MB; on AWS the write fails: no space left"
    return Failure("Sandbox.TempFull", reason)


def response_too_large(bytes_max: int) -> Failure:
    reason = f"Response payload size exceeded maximum allowed payload size ({bytes_max} bytes)."
    payload = json.dumps({"errorType": "Function.ResponseSizeTooLarge", "errorMessage": reason}).encode()
    return Failure("Function.ResponseSizeTooLarge", reason, own_payload=payload)


def init_report(duration_s: float, phase: Phase, failure: Failure) -> str:
    return f"INIT_REPORT Init Duration: {duration_s * 1000:.2f} ms\tPhase: {phase}\t{failure.status()}\n"


@dataclass(frozen=True)
class Invoked:
    """Numbers of one invocation."""

    request_id: str
    version: str
    duration_s: float
    memory_mb: int
    memory_used_mb: int
    init_s: float | None = None
    """Time of the init, for cold starts only."""
    failure: Failure | None = None


def log(invoked: Invoked, before_start: str, written: str, now: datetime) -> str:
    """Returns the whole log of an invocation."""
    failed = invoked.failure.lines(invoked.request_id, now) if invoked.failure else ""
    return (
        f"{_whole_lines(before_start)}START RequestId: {invoked.request_id} Version: {invoked.version}\n"
        f"{_whole_lines(written)}{failed}END RequestId: {invoked.request_id}\n{_report(invoked)}"
    )


def _report(invoked: Invoked) -> str:
    duration_ms = invoked.duration_s * 1000
    init_ms = (invoked.init_s or 0) * 1000
    fields = [
        f"REPORT RequestId: {invoked.request_id}",
        f"Duration: {duration_ms:.2f} ms",
        # Whole milliseconds are billed, those of the init included.
        f"Billed Duration: {math.ceil(round(duration_ms + init_ms, 2))} ms",
        f"Memory Size: {invoked.memory_mb} MB",
        f"Max Memory Used: {invoked.memory_used_mb} MB",
    ]
    if invoked.init_s is not None:
        fields.append(f"Init Duration: {init_ms:.2f} ms")
    # A line without a status ends with a tab.
    fields.append(invoked.failure.status() if invoked.failure else "")
    return "\t".join(fields) + "\n"


def _whole_lines(text: str) -> str:
    if len(text) > LOG_BYTES_MAX:
        text = f"[{len(text) - LOG_BYTES_MAX} characters of the log were dropped]\n{text[-LOG_BYTES_MAX:]}"
    return text if not text or text.endswith("\n") else f"{text}\n"
