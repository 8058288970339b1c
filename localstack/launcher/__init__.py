"""Implementation of `localstack/start`, with Python's standard library alone.

    main ── environment: Python packages from requirements.txt and our plugin, kept in the user's cache
       └─── server: one LocalStack, from its start until its last process is gone
    ending: what tells us to end; children: processes that do not outlive us
"""

EXIT_FAILED = 1
EXIT_UNAVAILABLE = 69
"""Exit code: there is no fitting Python, or its packages cannot be had."""


class StartError(Exception):
    """Ends `start` with this message and exit code."""

    def __init__(self, message: str, code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.code = code


class Ended(Exception):
    """Raised when somebody told us to end."""
