"""The app in a process of its own, as `make app` starts it, for tests and the soak."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from core.workspace.places import PROJECT, user_cache


@dataclass(frozen=True)
class Server:
    url: str
    pid: int
    log: Path


@contextmanager
def running(workspaces: Path, cache: Path, app: Path | None = None) -> Iterator[Server]:
    """The app, or another one, on a free port, for these workspaces; ended on leaving."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = os.environ | {"STITCHLENS_WORKSPACES": str(workspaces), "STITCHLENS_CACHE": str(cache)}
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(app or "app.py"),
        "--server.port",
        str(port),
    ]
    cache.mkdir(parents=True, exist_ok=True)
    log = cache / "server.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, cwd=PROJECT, env=env, stdout=out, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                time.sleep(0.1)
        yield Server(url, server.pid, log)
    finally:
        server.terminate()
        try:
            server.wait(STOPPING)
        except subprocess.TimeoutExpired:
            server.kill()
            raise


STOPPING = 120
"""Seconds within which a server that is told to stop has to, also beside other work."""


def borrow_models(cache: Path) -> Path:
    """A cache of one's own with the user's dequantised models: what is there need not be made
    again."""
    models = user_cache() / "models"
    models.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "models").symlink_to(models)
    return cache


@contextmanager
def held(url: str) -> Iterator[None]:
    """The server there hears nothing for a while: what a browser sends waits in a row."""
    port = str(urlsplit(url).port)
    [process] = [
        process
        for process in psutil.Process().children(recursive=True)
        if "streamlit" in process.cmdline() and port in process.cmdline()
    ]
    process.suspend()
    try:
        yield
    finally:
        process.resume()
