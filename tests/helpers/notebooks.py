"""The notebooks of examples/: run as a reader would, from their own folder.

`python -m tests.helpers.notebooks` runs them all and keeps what they print.
"""

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from core.workspace.places import PROJECT

NOTEBOOKS = sorted((PROJECT / "examples").glob("*.ipynb"))
LONGEST = 120
"""Seconds that a cell may take."""


def run(path: Path, cache: Path) -> nbformat.NotebookNode:
    """A notebook after its cells ran with `cache` as the user's cache folder; what they print on
    stderr (bars, advice) is dropped. Raises nbclient's CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=LONGEST, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute(env=os.environ | {"STITCHLENS_CACHE": str(cache), "HF_HUB_OFFLINE": "1"})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    return notebook


def printed(notebook: nbformat.NotebookNode) -> str:
    """Everything on stdout."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return "".join(out["text"] for out in outputs if out.get("name") == "stdout")


if __name__ == "__main__":
    for path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as cache:
            nbformat.write(run(path, Path(cache)), path)
        print(f"{path.name} kept")
