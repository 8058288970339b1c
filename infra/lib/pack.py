"""Packs a release reproducibly, and measures how fast the function is ready. Called by infra/release.

pack.py function ARCH BINARY ZIP      the zip that Lambda takes: one file, `bootstrap`
pack.py program ARCH BINARY TARBALL   the tarball of the program: one file, `gust`
pack.py start BINARY                  median time from start to the first request of the Runtime API
"""

import gzip
import http.server
import io
import os
import re
import statistics
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile

MACHINES = {"x86_64": 62, "arm64": 183}  # e_machine of the ELF header
GLIBC_MAX = (2, 34)  # Amazon Linux 2023, on which provided.al2023 runs
ZIP_BYTES_MAX = 50_000_000  # AWS Lambda quotas
ZIP_BYTES_AIM = 20_000_000  # docs/measurements.md
STARTS = 20


def checked(arch: str, path: str, is_function: bool) -> bytes:
    """Returns the file's bytes. Raises unless they run on the target machine."""
    with open(path, "rb") as file:
        binary = file.read()
    machine = struct.unpack_from("<H", binary, 18)[0] if binary[:4] == b"\x7fELF" else None
    if machine != MACHINES[arch]:
        sys.exit(f"error: {path} is not an ELF file for {arch} (machine {machine})")
    versions = {tuple(map(int, found.split(b"."))) for found in re.findall(rb"GLIBC_(\d+\.\d+)", binary)}
    if is_function and max(versions, default=(0, 0)) > GLIBC_MAX:
        needs = ".".join(map(str, max(versions)))
        sys.exit(
            f"error: {path} needs glibc {needs}, provided.al2023 has 2.34\n"
            "hint: build on Amazon Linux 2023, or another system with glibc 2.34 or older"
        )
    return binary


def function(arch: str, source: str, target: str) -> None:
    binary = checked(arch, source, True)
    info = zipfile.ZipInfo("bootstrap", (1980, 1, 1, 0, 0, 0))
    info.external_attr, info.create_system, info.compress_type = 0o100755 << 16, 3, zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(target, "w") as out:
        out.writestr(info, binary, zipfile.ZIP_DEFLATED, 9)
    size = os.path.getsize(target)
    verdict = "" if size <= ZIP_BYTES_AIM else ": more than it aims at"
    print(f"{os.path.basename(target)}: {len(binary):,} bytes, zipped {size:,} of {ZIP_BYTES_AIM:,}{verdict}")
    if size > ZIP_BYTES_MAX:
        sys.exit("error: Lambda takes 50 MB at most")


def program(arch: str, source: str, target: str) -> None:
    binary = checked(arch, source, False)
    info = tarfile.TarInfo("gust")
    info.size, info.mode, info.mtime = len(binary), 0o755, 0
    with open(target, "wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as out:
            out.addfile(info, io.BytesIO(binary))
    print(f"{os.path.basename(target)}: {len(binary):,} bytes, packed {os.path.getsize(target):,}")


def start(binary: str) -> None:
    ready = threading.Event()

    class Next(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ready.set()
            time.sleep(3600)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Next)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}",
        "AWS_LAMBDA_FUNCTION_NAME": "gust",
        "AWS_LAMBDA_FUNCTION_VERSION": "1",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "2048",
    }
    samples = []
    for _ in range(STARTS):
        ready.clear()
        began = time.perf_counter()
        child = subprocess.Popen([binary], env=environment)
        came_up = ready.wait(10)
        samples.append((time.perf_counter() - began) * 1e3)
        child.kill()
        child.wait()
        if not came_up:
            sys.exit(f"error: {binary} was not ready within 10 s")
    print(f"start to ready: median {statistics.median(samples):.1f} ms of {STARTS}, worst {max(samples):.1f} ms")


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    {"function": function, "program": program, "start": start}[verb](*arguments)
