"""The house rules: data flows one way through core, nothing happens at import, and core knows no page."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from core.activations.gram import Gram

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(p.stem for p in (ROOT / "core").glob("[!_]*.py"))


def order() -> list[str]:
    """The modules of core from top to bottom, as CONTRIBUTING.md lists them."""
    return re.findall(r"^\| `(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.M)


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING`; functions' bodies too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from runtime_nodes(node)


def imported(source: str) -> set[str]:
    """Dotted names of everything a module imports while it runs."""
    found: set[str] = set()
    for node in runtime_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{a.name}" for a in node.names} | {str(node.module)}
    return found


def below(module: str, source: str, listed: list[str]) -> set[str]:
    """Modules of core that `source` imports although they do not stand above `module`."""
    names = {n.split(".")[1] for n in imported(source) if n.startswith("core.")} & set(listed)
    return {n for n in names if listed.index(n) >= listed.index(module)}


def test_every_module_has_its_place() -> None:
    listed = order()
    assert len(listed) == len(set(listed))
    assert set(MODULES) <= set(listed), "CONTRIBUTING.md lists every module of core"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_upwards_only(module: str) -> None:
    source = (ROOT / "core" / f"{module}.py").read_text("utf-8")
    assert below(module, source, order()) == set()


def test_a_downward_import_would_be_seen() -> None:
    listed = order()
    assert below("store", "from core.activations.harvest import record", listed) == {"harvest"}
    assert below("store", "def f():\n    from core import pipeline", listed) == {"pipeline"}
    assert below("store", "import core.stitches.fit", listed) == {"stitch"}
    assert below("store", "if TYPE_CHECKING:\n    from core.activations.harvest import record", listed) == set()
    assert below("pipeline", "from core.workspace.store import Workspace", listed) == set()


@pytest.mark.parametrize("module", MODULES)
def test_core_knows_no_page(module: str) -> None:
    roots = {n.split(".")[0] for n in imported((ROOT / "core" / f"{module}.py").read_text("utf-8"))}
    assert not roots & {"streamlit", "pages", "app", "tests"}


IMPORT = """
import json, os, sys
before = dict(os.environ)
{imports}
changed = [k for k in before.keys() | os.environ.keys() if before.get(k) != os.environ.get(k)]
print(json.dumps({{"environment": changed, "loaded": sorted(sys.modules)}}))
"""
TORCHS_OWN = {"KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK", "TORCHINDUCTOR_CACHE_DIR"}


def run_import(modules: list[str], cache: Path) -> tuple[set[str], set[str]]:
    """(variables changed, modules loaded) by importing modules of core in a fresh process that must print nothing."""
    code = IMPORT.format(imports="\n".join(f"import core.{m}" for m in modules))
    env = os.environ | {"STITCHLENS_CACHE": str(cache), "STITCHLENS_WORKSPACES": str(cache)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    found = json.loads(done.stdout)  # fails where anything else was printed
    return set(found["environment"]) - TORCHS_OWN, set(found["loaded"])


def test_light_modules_stay_light(tmp_path: Path) -> None:
    changed, loaded = run_import(["errors", "pairs", "store", "queries", "cli"], tmp_path / "nowhere")
    assert not changed
    assert not loaded & {"torch", "transformers", "streamlit"}
    assert "pydantic" in loaded


def test_importing_core_does_no_work(tmp_path: Path) -> None:
    changed, loaded = run_import(MODULES, tmp_path / "nowhere")
    assert not changed
    assert "torch" in loaded, "else the test above proves nothing"
    assert not loaded & {"streamlit", "transformer_lens"}, "slow imports wait until they are needed"
    assert not (tmp_path / "nowhere").exists()


def test_shapes_are_checked_while_tests_run() -> None:
    with pytest.raises(TypeCheckError):
        Gram(2, 3).update(torch.zeros(4, 2), torch.zeros(5, 3))
