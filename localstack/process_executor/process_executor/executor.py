"""An execution environment of LocalStack's Lambda: its life of inits, invocations and resets, as on AWS.

    start ── init (10 s) ──ok──▶ idle ◀──────────────┐
                │ failed                             │
                └──▶ nothing ── invoke: init again within the function's own time-out ──▶ invocation
                        ▲                            │
                        └── time-out, exit, limit ───┘   the process is killed, its temp folder stays
"""

import platform
import threading
import time
from datetime import UTC, datetime

from localstack import config
from localstack.services.lambda_.invocation.lambda_models import FunctionVersion, InvocationResult
from localstack.services.lambda_.invocation.runtime_executor import LambdaRuntimeException, RuntimeExecutor

from process_executor import report
from process_executor.process import Folder
from process_executor.report import Failure, Invoked, Phase
from process_executor.runtime_api import Answered, Invocation
from process_executor.sandbox import Limits, Sandbox

INIT_S_MAX = 10.0
"""AWS's limit of an init ahead of the first invocation."""
_MACHINES = {"x86_64": "x86_64", "aarch64": "arm64"}
# These variables are for LocalStack's own program in its containers.
_NOT_FOR_FUNCTIONS = ("LOCALSTACK_RUNTIME_ID", "LOCALSTACK_RUNTIME_ENDPOINT")

_running: set["ProcessRuntimeExecutor"] = set()
_running_lock = threading.Lock()


def stop_all() -> None:
    """Kills every function, even one at work."""
    with _running_lock:
        executors = list(_running)
    for executor in executors:
        executor.stop()


class Stopped(Exception):
    """The environment is being taken down."""


class ProcessRuntimeExecutor(RuntimeExecutor):
    def __init__(self, id: str, function_version: FunctionVersion) -> None:
        super().__init__(id, function_version)
        settings = function_version.config
        self._limits = Limits(
            memory_mb=settings.memory_size,
            temp_mb=settings.ephemeral_storage.size,
            payload_bytes_max=config.LAMBDA_LIMITS_MAX_FUNCTION_PAYLOAD_SIZE_BYTES,
        )
        self._variables: dict[str, str] = {}
        self._folder: Folder | None = None
        self._sandbox: Sandbox | None = None
        self._init_s: float | None = None
        """Seconds of a good init that no invocation has reported yet."""
        self._init_log = ""
        self._lock = threading.Lock()
        self._is_stopped = False

    # Life

    def start(self, env_vars: dict[str, str]) -> None:
        """Inits the function. A failed init is no error yet: the first invocation tries again and tells its caller."""
        self._folder = Folder(self.id[:8])
        self._variables = self._environment({name: str(value) for name, value in env_vars.items()})
        with _running_lock:
            _running.add(self)
        if self.function_version.config.code:
            self.function_version.config.code.prepare_for_execution()
        started = time.monotonic()
        failure = self._init(Phase.INIT, INIT_S_MAX)
        self._init_s = None if failure else time.monotonic() - started

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            sandbox, self._sandbox = self._sandbox, None
            folder, self._folder = self._folder, None
        with _running_lock:
            _running.discard(self)
        if sandbox:
            sandbox.close()
        if folder:
            folder.remove()

    def invoke(self, payload: dict[str, str]) -> InvocationResult:
        started = time.monotonic()
        timeout_s = float(self.function_version.config.timeout)
        request_id = payload["invoke-id"]
        try:
            outcome = self._invoke(payload, started + timeout_s, timeout_s)
        except Stopped:
            outcome = report.exited("Runtime exited with error: signal: killed")
        elapsed_s = time.monotonic() - started
        failure = outcome if isinstance(outcome, Failure) else None
        log = self._log(request_id, min(elapsed_s, timeout_s) if failure and failure.is_timeout else elapsed_s, failure)
        if failure and failure.error_type != "Function.ResponseSizeTooLarge":
            self._reset()
        if isinstance(outcome, Answered):
            return InvocationResult(request_id, outcome.body, outcome.is_error, log)
        return InvocationResult(request_id, outcome.payload(request_id), True, log)

    # Steps

    def _invoke(self, payload: dict[str, str], deadline: float, timeout_s: float) -> Answered | Failure:
        if self._sandbox and self._sandbox.has_ended():
            self._reset()
        if self._sandbox is None:
            failure = self._init(Phase.INVOKE, timeout_s)
            if failure:
                return failure
        sandbox = self._sandbox
        if sandbox is None:
            raise Stopped
        left_s = deadline - time.monotonic()
        invocation = Invocation(
            request_id=payload["invoke-id"],
            payload=payload["payload"].encode(),
            deadline_ms=int((time.time() + left_s) * 1000),
            function_arn=payload["invoked-function-arn"],
            trace_id=payload["trace-id"],
        )
        return sandbox.invoke(invocation, deadline, timeout_s)

    def _init(self, phase: Phase, limit_s: float) -> Failure | None:
        started = time.monotonic()
        sandbox = self._open_sandbox()
        failure = sandbox.init(started + limit_s, limit_s)
        self._init_log += self._take_log()
        if failure:
            self._init_log += report.init_report(time.monotonic() - started, phase, failure)
            if phase is Phase.INIT:
                self._reset()
        return failure

    def _open_sandbox(self) -> Sandbox:
        code = self.function_version.config.code
        with self._lock:
            if self._is_stopped or self._folder is None or code is None:
                raise Stopped
            self._sandbox = Sandbox(code.get_unzipped_code_location(), self._variables, self._folder, self._limits)
            return self._sandbox

    def _reset(self) -> None:
        with self._lock:
            sandbox, self._sandbox = self._sandbox, None
        if sandbox:
            sandbox.close()

    def _log(self, request_id: str, duration_s: float, failure: Failure | None) -> str:
        used_mb = self._sandbox.usage.memory_mb if self._sandbox else 0
        init_log, self._init_log = self._init_log, ""
        init_s, self._init_s = self._init_s, None
        invoked = Invoked(
            request_id=request_id,
            version=self.function_version.id.qualifier,
            duration_s=duration_s,
            memory_mb=self._limits.memory_mb,
            # The last sample of a killed function is a little above its limit.
            memory_used_mb=min(used_mb, self._limits.memory_mb),
            init_s=init_s,
            failure=failure,
        )
        return report.log(invoked, init_log, self._take_log(), datetime.now(UTC))

    def _take_log(self) -> str:
        with self._lock:
            return self._folder.take_log() if self._folder else ""

    def _environment(self, given: dict[str, str]) -> dict[str, str]:
        """Returns the variables as on AWS, except the paths, which are this machine's."""
        assert self._folder is not None and self.function_version.config.code is not None
        for name in _NOT_FOR_FUNCTIONS:
            given.pop(name, None)
        temp = str(self._folder.temp)
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "en_US.UTF-8",
            "HOME": temp,
            **given,
            "LAMBDA_TASK_ROOT": str(self.function_version.config.code.get_unzipped_code_location()),
            "TMPDIR": temp,
        }

    # The rest of LocalStack's interface

    def get_address(self) -> str:
        return "127.0.0.1"

    def get_endpoint_from_executor(self) -> str:
        return "127.0.0.1"

    def get_runtime_endpoint(self) -> str:
        return ""  # of LocalStack's own program in its containers, which does not run here

    def get_logs(self) -> str:
        return self._init_log

    @classmethod
    def prepare_version(cls, function_version: FunctionVersion) -> None:
        settings = function_version.config
        if settings.code is None:
            raise LambdaRuntimeException("functions from container images need Docker; deploy a zip file")
        architecture = settings.architectures[0]
        here = _MACHINES.get(platform.machine(), platform.machine())
        if architecture != here:
            raise LambdaRuntimeException(f"the function is built for {architecture}, and this machine is {here}")
        settings.code.prepare_for_execution()

    @classmethod
    def cleanup_version(cls, function_version: FunctionVersion) -> None:
        """Keeps the code: other versions may run the same. LocalStack deletes it with the last of them."""
