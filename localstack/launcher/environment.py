"""The Python environment: packages of requirements.txt, and beside them our plugin. It is made once and kept in the user's cache.

    ~/.cache/gust/localstack-HASH/         a virtual environment; HASH covers requirements.txt and the Python
    ~/.cache/gust/localstack-plugin-HASH/  the plugin; HASH covers its sources and the environment
    ~/.cache/gust/localstack.lock          held while one of them is made

Each is made under another name and moved into place when whole, so that a half-made one is never used.
"""

import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from launcher import EXIT_UNAVAILABLE, StartError, children
from launcher.ending import Ending

HERE = Path(__file__).resolve().parent.parent
REQUIREMENTS = HERE / "requirements.txt"
PLUGIN = HERE / "process_executor"
_INSTALL_S_MAX = 900
_UNFINISHED = "localstack-unfinished-"


@dataclass(frozen=True)
class Environment:
    python: Path
    plugin: Path
    """Entry for PYTHONPATH."""


def ensure_environment(ending: Ending) -> Environment:
    """Finds the environment or makes it.

    Raises:
        StartError: with EXIT_UNAVAILABLE
    """
    cache = _cache()
    base_key = _hash([sys.version, sys.base_prefix, REQUIREMENTS.read_text()])
    base = cache / f"localstack-{base_key}"
    sources = sorted(path for path in PLUGIN.rglob("*") if path.suffix in {".py", ".toml"})
    plugin_key = _hash([base_key, *(f"{path.relative_to(PLUGIN)}\n{path.read_text()}" for path in sources)])
    plugin = cache / f"localstack-plugin-{plugin_key}"
    python = base / "bin" / "python"
    try:
        if not (base.exists() and plugin.exists()):
            with _Lock(cache, ending):
                _make(base, lambda folder, log: _install_packages(folder, log, ending))
                _make(plugin, lambda folder, log: _install_plugin(python, sources, folder, log, ending))
    except OSError as error:
        raise StartError(f"cannot make the Python environment: {error}", EXIT_UNAVAILABLE) from error
    except StartError as error:
        raise StartError(f"cannot make the Python environment: {error}", EXIT_UNAVAILABLE) from error
    return Environment(python, plugin)


def _make(folder: Path, install: Callable[[Path, Path], None]) -> None:
    """Makes a folder under the lock, unless the holder before us has made it."""
    if folder.exists():
        return
    for left_behind in folder.parent.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left_behind, ignore_errors=True)
    unfinished = folder.parent / f"{_UNFINISHED}{os.getpid()}"
    unfinished.mkdir()
    try:
        install(unfinished / "installed", unfinished / "log")
        (unfinished / "installed").rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _install_packages(folder: Path, log: Path, ending: Ending) -> None:
    print("start: installing LocalStack, about a minute, once", file=sys.stderr, flush=True)
    try:
        children.run([sys.executable, "-m", "venv", folder], log, _INSTALL_S_MAX, ending)
    except StartError as error:
        raise StartError(f"{error}\nhint: on Debian and Ubuntu, install python3-venv") from error
    pip: list[str | Path] = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        children.run([*pip, "--requirement", REQUIREMENTS], log, _INSTALL_S_MAX, ending)
    except StartError as error:
        raise StartError(f"{error}\nhint: it needs a Python package index, once; pip's own settings name it") from error


def _install_plugin(python: Path, sources: list[Path], folder: Path, log: Path, ending: Ending) -> None:
    # The copy is built, because building leaves its files beside the sources.
    copy = folder.parent / "sources"
    for source in sources:
        target = copy / source.relative_to(PLUGIN)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    children.run([*pip, *offline, "--target", folder, copy], log, _INSTALL_S_MAX, ending)


class _Lock:
    """Lock under which one `start` installs while others wait. A killed one frees it."""

    def __init__(self, cache: Path, ending: Ending) -> None:
        cache.mkdir(parents=True, exist_ok=True)
        self._file = open(cache / "localstack.lock", "wb")
        self._ending = ending

    def __enter__(self) -> None:
        while True:
            try:
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._ending.wait(0.2)

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if os.path.isabs(root) else Path.home() / ".cache") / "gust"


def _hash(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
