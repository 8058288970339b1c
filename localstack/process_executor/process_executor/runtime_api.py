"""The Lambda Runtime API (2018-06-01) for one process, on a free port of 127.0.0.1.

It knows neither LocalStack nor the process: what the function does is emitted as events, in the thread of its request and
before the request is answered, so that the process still waits while an event is looked at.
"""

import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PREFIX = "/2018-06-01/runtime/"
_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True)
class Invocation:
    """Invocation that `invocation/next` hands out."""

    request_id: str
    payload: bytes
    deadline_ms: int
    """Deadline since the epoch."""
    function_arn: str
    trace_id: str


@dataclass(frozen=True)
class NextRequested:
    """The function is idle: its init or its last invocation has ended."""


@dataclass(frozen=True)
class Answered:
    body: bytes
    is_error: bool


@dataclass(frozen=True)
class AnswerTooLarge:
    """The function got a 413."""


@dataclass(frozen=True)
class InitFailed:
    body: bytes
    error_type: str


Event = NextRequested | Answered | AnswerTooLarge | InitFailed


class RuntimeApi:
    """Serves until closed. Invocations are offered one at a time."""

    def __init__(self, payload_bytes_max: int, emit: Callable[[Event], None]) -> None:
        self.payload_bytes_max = payload_bytes_max
        self.emit = emit
        self._offered: queue.SimpleQueue[Invocation | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._current: str | None = None
        self._server = _Server(self)
        threading.Thread(target=self._server.accept_until_closed, name="runtime-api", daemon=True).start()

    @property
    def address(self) -> str:
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    def offer(self, invocation: Invocation) -> None:
        with self._lock:
            self._current = invocation.request_id
        self._offered.put(invocation)

    def close(self) -> None:
        self._offered.put(None)
        self._server.close()

    def take(self) -> Invocation | None:
        """Returns the next invocation when there is one. None once closed."""
        invocation = self._offered.get()
        if invocation is None:
            self._offered.put(None)
        return invocation

    def settle(self, request_id: str) -> bool:
        """Returns true for the first answer to the current invocation."""
        with self._lock:
            is_current = request_id == self._current
            if is_current:
                self._current = None
            return is_current


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 16

    def __init__(self, api: RuntimeApi) -> None:
        self.api = api
        super().__init__(("127.0.0.1", 0), _Handler)

    def server_bind(self) -> None:
        # The parent class looks up the host's name, which can take seconds.
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def accept_until_closed(self) -> None:
        # `serve_forever` would wake up twice a second, for each of hundreds of environments.
        while True:
            try:
                request, address = self.get_request()
            except OSError:
                return
            self.process_request(request, address)

    def close(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        if self.path != f"{PREFIX}invocation/next":
            return self._refuse(HTTPStatus.NOT_FOUND, "NotFound", self.path)
        api = self.server.api
        api.emit(NextRequested())
        invocation = api.take()
        if invocation is None:
            self.close_connection = True
            return
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
            "Lambda-Runtime-Deadline-Ms": str(invocation.deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": invocation.function_arn,
            "Lambda-Runtime-Trace-Id": invocation.trace_id,
        }
        self._reply(HTTPStatus.OK, invocation.payload, headers)

    def do_POST(self) -> None:
        api = self.server.api
        body = self._body(api.payload_bytes_max)
        match self.path.removeprefix(PREFIX).split("/"):
            case ["init", "error"]:
                error_type = self.headers.get("Lambda-Runtime-Function-Error-Type", "Runtime.Unknown")
                api.emit(InitFailed(body or b"{}", error_type))
                self._accept()
            case ["invocation", request_id, "response" | "error" as outcome]:
                if not api.settle(request_id):
                    self._refuse(HTTPStatus.BAD_REQUEST, "InvalidRequestID", f"{request_id} is not running")
                elif body is None:
                    api.emit(AnswerTooLarge())
                    reason = f"Exceeded maximum allowed payload size ({api.payload_bytes_max} bytes)."
                    self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RequestEntityTooLarge", reason)
                else:
                    api.emit(Answered(body, outcome == "error"))
                    self._accept()
            case _:
                self._refuse(HTTPStatus.NOT_FOUND, "NotFound", self.path)

    def _body(self, bytes_max: int) -> bytes | None:
        """Reads the request's body to its end. None if it is longer than allowed."""
        parts: list[bytes] = []
        total = 0
        for part in self._chunks():
            total += len(part)
            if total <= bytes_max:
                parts.append(part)
            else:
                parts.clear()
        return b"".join(parts) if total <= bytes_max else None

    def _chunks(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield from self._exactly(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass  # trailers
        else:
            yield from self._exactly(int(self.headers.get("Content-Length", 0)))

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size > 0:
            part = self.rfile.read(min(size, _CHUNK_BYTES))
            if not part:
                raise ConnectionError("the function closed the connection within a request")
            size -= len(part)
            yield part

    def _accept(self) -> None:
        self._reply(HTTPStatus.ACCEPTED, b'{"status":"OK"}', {"Content-Type": "application/json"})

    def _refuse(self, status: HTTPStatus, error_type: str, message: str) -> None:
        body = json.dumps({"errorType": error_type, "errorMessage": message}).encode()
        self._reply(status, body, {"Content-Type": "application/json"})

    def _reply(self, status: HTTPStatus, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, ValueError, OSError):
            self.close_connection = True  # a killed function, or one that speaks no HTTP

    def log_message(self, format: str, *args: object) -> None:
        pass
