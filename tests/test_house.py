"""The house rules: data flows one way through core, nothing happens at import, core knows no
page."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from core.activations.gram import Gram
from core.workspace.places import PROJECT
from tests.helpers import house

MODULES = sorted(house.modules())
BOXES = house.boxes()


def test_every_box_has_its_place() -> None:
    assert len(BOXES) == len(set(BOXES))
    assert {module.split(".")[1] for module in MODULES} == set(BOXES), "the map lists every box"


@pytest.mark.parametrize(
    ("what", "value", "most"), house.figures(), ids=[what for what, *_ in house.figures()]
)
def test_the_house_keeps_its_targets(what: str, value: float, most: float) -> None:
    assert value <= most, f"{what}: `python -m tests.helpers.house` prints them all"


def test_a_downward_import_would_be_seen() -> None:
    assert house.downward({"core.text.x": "from core.activations.harvest import record"})
    assert house.downward({"core.text.x": "def f():\n    from core import report"})
    assert house.downward({"core.models.x": "import core.stitches.fit"})
    assert not house.downward({"core.stitches.x": "from core.workspace.store import Workspace"})
    typed = "if TYPE_CHECKING:\n    from core.activations.harvest import record"
    assert not house.downward({"core.text.x": typed})


def test_a_circle_would_be_seen() -> None:
    two = {
        "core.saes.a": "from core.saes import b",
        "core.saes.b": "def f():\n    from core.saes.a import g",
    }
    assert house.circles(two) == [["core.saes.a", "core.saes.b", "core.saes.a"]]


def test_full_lines_and_vague_names_would_be_seen() -> None:
    assert house.fullness(["x = f(1, 2)"]) == 8
    assert house.vague(["def f():\n    found = 1\n    layer = 2"]) == 0.5


@pytest.mark.parametrize("module", MODULES)
def test_core_knows_no_page(module: str) -> None:
    source = house.modules()[module].read_text("utf-8")
    roots = {name.split(".")[0] for name in house.imported(source)}
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
    """(variables changed, modules loaded) by importing modules in a fresh process that must print
    nothing."""
    code = IMPORT.format(imports="\n".join(f"import {module}" for module in modules))
    folders = {"STITCHLENS_CACHE": str(cache), "STITCHLENS_WORKSPACES": str(cache)}
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env=os.environ | folders,
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stderr == ""
    report = json.loads(process.stdout)  # fails where anything else was printed
    return set(report["environment"]) - TORCHS_OWN, set(report["loaded"])


def test_light_modules_stay_light(tmp_path: Path) -> None:
    tables = [module for module in MODULES if module.endswith(".tables")]
    light = ["core.errors", "core.models.pairs", "core.workspace.store", "core.cli.main", *tables]
    changed, loaded = run_import(light, tmp_path / "nowhere")
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
