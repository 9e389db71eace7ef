"""A page is drawn without what works with models, and imports that in one thread at a time."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from core.workspace.places import PROJECT

PAGES = {path: path.read_text("utf-8") for path in sorted((PROJECT / "pages").rglob("*.py"))}


def late(node: ast.AST, inside: bool = False, turn: bool = False) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of core inside a function and outside `with importing()`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom) and inside and not turn:
            if str(child.module).startswith("core."):
                yield child.lineno, str(child.module)
        elif isinstance(child, ast.With) and "importing()" in ast.unparse(child.items[-1]):
            yield from late(child, inside, True)
        else:
            function = isinstance(child, ast.FunctionDef)
            yield from late(child, inside or function, turn and not function)


def test_what_a_page_imports_late_it_imports_in_turn() -> None:
    assert list(late(ast.parse("def f():\n    from core.bench import Bench"))) == [
        (2, "core.bench")
    ]
    for path, source in PAGES.items():
        assert list(late(ast.parse(source))) == [], path


def test_no_page_needs_torch_to_be_drawn() -> None:
    modules = set[str]()
    for source in PAGES.values():
        top = (node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom))
        modules |= {str(node.module) for node in top if str(node.module).startswith("core")}
    assert "core.stitches" in modules
    code = "import sys\n" + "".join(f"import {module}\n" for module in sorted(modules))
    done = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


WITHOUT_MODELS = ("features", "functional", "paper", "probes", "stitches", "training")
"""Pages that open no model when they are visited."""
FIRST_VISITS = """
import os, sys
from tests.helpers.app import opened

os.environ["STITCHLENS_WORKSPACES"] = sys.argv[1]
opened("glossary", pair="nano")  # in an empty place: the first page opens models where it can
os.environ["STITCHLENS_WORKSPACES"] = sys.argv[2]
for page in sys.argv[3:]:
    app = opened(page, pair="nano")
    assert not app.exception and app.title, page
print(*sorted({"torch", "transformers", "scipy.stats", "psutil"} & set(sys.modules)))
"""


def test_a_first_visit_imports_nothing_heavy(tmp_path: Path) -> None:
    """Not at the top of a module and not later: `scipy.stats` takes most of a second."""
    places = [str(tmp_path), str(PROJECT / "cache")]
    done = subprocess.run(
        [sys.executable, "-c", FIRST_VISITS, *places, *WITHOUT_MODELS],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "\n"


def test_a_page_that_runs_leaves_the_search_path_alone() -> None:
    """Else a thread that imports at that moment passes over an entry of it."""
    code = """
import sys
from streamlit.runtime.scriptrunner.exec_code import modified_sys_path
script = sys.argv[1]
before = list(sys.path)
with modified_sys_path(script):
    print(sys.path == before)
import app
before = list(sys.path)
with modified_sys_path(script):
    print(sys.path == before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(PROJECT / "pages" / "main.py")],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\nTrue\n", "the first shows that Streamlit would change it"
