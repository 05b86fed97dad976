"""The servers that are compared, each started as users would start it."""

from __future__ import annotations

import gzip
import http.server
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import tifffile


@contextmanager
def neurotrale(
    root: Path, workers: int, *options: str, cores: int | None = None
) -> Iterator[tuple[str, int]]:
    """Run this service, on so many cores; yield its URL and the process id of its supervisor."""
    ready = root.parent / f"ready-{os.getpid()}.json"
    command = [sys.executable, "-m", "neurotrale", "serve", str(root), "--port", "0"]
    command += ["--workers", str(workers), "--no-access-log", "--log-level", "warning"]
    if cores is not None:
        chosen = sorted(os.sched_getaffinity(0))[:cores]
        command = ["taskset", "--cpu-list", ",".join(map(str, chosen)), *command]
    process = subprocess.Popen(
        [*command, "--ready-file", str(ready), *options], stdout=subprocess.DEVNULL
    )
    try:
        while not ready.exists():
            if process.poll() is not None:
                raise RuntimeError("the service did not start")
            time.sleep(0.05)
        yield json.loads(ready.read_text())["url"].rstrip("/"), process.pid
    finally:
        process.terminate()
        process.wait()


class _Naive(http.server.BaseHTTPRequestHandler):
    """The simplest service: imread, tobytes and gzip -9 for each chunk, as in the original one."""

    protocol_version = "HTTP/1.1"
    root = Path()

    def do_GET(self) -> None:
        body = io.BytesIO()
        with gzip.GzipFile(mode="wb", fileobj=body, compresslevel=9) as compressed:
            compressed.write(tifffile.imread(f"{self.root}{self.path}.tiff").tobytes())
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(body.tell()))
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):  # the load has ended
            self.wfile.write(body.getvalue())

    def log_message(self, format: str, *args: object) -> None:
        pass


class _NaiveServer(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the load has ended


@contextmanager
def naive(root: Path, workers: int) -> Iterator[str]:
    """Run the naive service with this number of processes; yield its URL."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    children = []
    for _ in range(workers):
        pid = os.fork()
        if not pid:
            _Naive.root = root
            server = _NaiveServer(("127.0.0.1", 0), _Naive, bind_and_activate=False)
            server.socket = listening
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            server.serve_forever()
        children.append(pid)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        for pid in children:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
        listening.close()


_NGINX = """\
daemon off; worker_processes {workers}; pid {directory}/nginx.pid; error_log {directory}/error.log;
{user}
events {{ worker_connections 512; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
    client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
    uwsgi_temp_path {directory}; scgi_temp_path {directory};
    server {{ listen 127.0.0.1:{port}; root {root}; default_type application/octet-stream; }}
}}
"""


@contextmanager
def nginx(root: Path, workers: int) -> Iterator[str]:
    """Serve a directory of plain files with nginx; yield its URL."""
    directory = root.parent / "nginx"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    user = "user root;" if os.geteuid() == 0 else ""
    conf = directory / "nginx.conf"
    conf.write_text(
        _NGINX.format(workers=workers, directory=directory, root=root, port=port, user=user)
    )
    process = subprocess.Popen(["nginx", "-c", str(conf), "-p", str(directory)])
    try:
        _await_port(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait()


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
