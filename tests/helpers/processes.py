"""Commands as processes of their own, in a cache and workspaces of their own."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from core.activations.gram import load_grams
from core.workspace.places import PROJECT
from core.workspace.store import Workspace

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
"""Two ranks on one machine."""


class Home:
    """A cache and workspaces of their own, in which commands run with one thread."""

    def __init__(self, root: Path) -> None:
        self.cache, self.workspaces = root / "cache", root / "workspaces"
        self.environment = os.environ | {
            "STITCHLENS_CACHE": str(self.cache),
            "STITCHLENS_WORKSPACES": str(self.workspaces),
            "STITCHLENS_DTYPE": "float32",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *words: str, **more: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=PROJECT,
            env=self.environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, **more: str) -> tuple[int, str]:
        process = self.start(*words, **more)
        try:
            text, _ = process.communicate(timeout=900)
        finally:
            end(process)
        return process.returncode, text

    def done(self, *words: str, **more: str) -> str:
        rc, text = self.run(*words, **more)
        assert rc == 0, text
        return text

    def moments(self) -> dict[str, Any]:
        """The sums of every layer pair and split."""
        paths = sorted((self.cache / "moments").glob("*/*.safetensors"))
        sums = {}
        for path in paths:
            grams, record = load_grams(path)
            (gram,) = grams.values()
            key = f"{record['config']['split']}/{path.stem}"
            sums[key] = (gram.S, gram.X, record["read"])
        return sums

    def tables(self) -> dict[str, Any]:
        ws = Workspace("nano", self.workspaces)
        assert ws.verify() == {}
        return {name: ws.table(name) for name in ws.names("table")}


def end(process: "subprocess.Popen[str]") -> None:
    """A process and what it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
