"""What people read holds: links lead somewhere, commands parse, code runs, tables are those of the
workspaces, and the site builds."""

import ast
import importlib
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
import yaml

from core import __version__
from core.cli.markdown import TOPICS, as_markdown, sections
from core.cli.tables import short_names
from core.cli.words import fixed, number, percent, plain
from core.models.pairs import get_pair
from core.report import report
from core.saes import tables as sae_tables
from core.workspace.places import PROJECT
from tests.helpers import documents, house, notebooks, pictures

README = (PROJECT / "README.md").read_text("utf-8")
WRITTEN = {
    str(path.relative_to(PROJECT)): path.read_text("utf-8") for path in documents.documents()
}
PAIRS = ("nano", "smollm2-gemma3")


def test_readme_fits_a_screen_or_three() -> None:
    assert len(README.splitlines()) <= 120
    assert len(README.encode()) <= 8_000


@pytest.mark.parametrize("name", WRITTEN)
def test_links_lead_somewhere(name: str) -> None:
    assert documents.broken_links(PROJECT / name, WRITTEN[name]) == []


def test_a_broken_link_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One thing, and `another`\n")
    text = (
        "[a](nowhere.md) [b](other.md#one-thing-and-another) [c](other.md#two) [d](#here)\n# Here"
    )
    (tmp_path / "this.md").write_text(text)
    assert documents.broken_links(tmp_path / "this.md", text) == ["nowhere.md", "other.md#two"]


def test_commands_parse() -> None:
    commands = [(name, words) for name in WRITTEN for words in documents.commands(WRITTEN[name])]
    commands = [(name, words) for name, words in commands if words[0] != "…"]
    assert len(commands) > 60
    assert {name for name, _ in commands} > {"README.md", "docs/how-to.md", "docs/results.md"}
    assert [(name, words) for name, words in commands if not documents.parses(words)] == []


@pytest.mark.parametrize(
    "words",
    ["reprot nano", "report", "report nano --markdwon", "stitch fit", "features show nano x"],
)
def test_a_wrong_command_would_be_seen(words: str) -> None:
    assert not documents.parses(words.split())


def test_the_lines_of_readme_run() -> None:
    """And carry the SAE as Eq. 6 says."""
    (block,) = documents.code(README, "python")
    names: dict[str, Any] = {}
    exec(block, names)
    stitch, original = names["stitch"], names["load_sae"](names["ws"].path("saes/L2-1024"))
    h_b = 5 * torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    composed = stitch.up(original(stitch.down(h_b)))
    torch.testing.assert_close(names["sae_b"](h_b), composed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", WRITTEN)
def test_code_in_documents_is_of_today(name: str) -> None:
    """It compiles, and what it imports from core is there."""
    text = WRITTEN[name]
    here = re.findall(r"<<'PY'.*?\n(.*?)^PY$", text, re.DOTALL | re.MULTILINE)
    for block in [*documents.code(text, "python"), *here]:
        ast.parse(block)
        for module, attribute in documents.imports(block):
            assert hasattr(importlib.import_module(module), attribute), f"{module}.{attribute}"


@pytest.mark.parametrize("name", WRITTEN)
def test_files_that_are_named_are_there(name: str) -> None:
    """Paths of code in backticks, `core/stitches/fit.py` and the like."""
    named = re.findall(r"`((?:core|pages|tests|examples|docs)/[\w/.-]+)`", WRITTEN[name])
    assert [path for path in named if not (PROJECT / path).exists()] == []


def test_results_are_those_of_the_workspaces() -> None:
    text = documents.RESULTS.read_text("utf-8")
    shown = {(m["pair"], m["topic"]) for m in documents.REPORTED.finditer(text)}
    measured = {(pair, topic) for pair in PAIRS for topic in documents.tables(pair)}
    assert shown == {(pair, topic) for pair, topic in measured if topic in TOPICS}
    assert {topic for _, topic in shown} == {*TOPICS}
    for path in documents.TABLED:
        text = path.read_text("utf-8")
        assert documents.with_tables(text) == text, "`make docs-results` writes them again"


def test_a_typed_figure_would_be_seen() -> None:
    text = documents.RESULTS.read_text("utf-8")
    changed = text.replace("| nano-a | 4.03 |", "| nano-a | 4.02 |")
    assert changed != text
    assert documents.with_tables(changed) == text


def test_tables_show_what_the_report_says() -> None:
    """Cells against the report, read by themselves."""
    nano, tables = report(get_pair("nano")), sections(get_pair("nano"))
    loss = nano["stitches"]["L2-L3"]["downstream_details"]["a_to_b"]
    english = nano["stitches"]["L2-L3"]["downstream_by_kind"]["English"]
    row = next(x for x in tables["stitches"].splitlines() if x.startswith("| nano-a→nano-b |"))
    assert f"[{loss['low']:.2f}, {loss['high']:.2f}]" in row
    assert f"{english['a_to_b'] / english['b'] - 1:+.0%}"[:-1] in row

    alike, twins = (nano["features"][topic]["code"] for topic in ("agreement", "twins"))
    row = next(x for x in tables["agreement"].splitlines() if x.startswith("| code |"))
    carried, random = alike["carried"], alike["random"]
    assert f"| {carried['median']:.2f} | {carried['share_alike']:.0%}"[:-1] in row
    assert f"| {random['median']:.2f} | {random['share_alike']:.1%}"[:-1] in row
    row = next(x for x in tables["twins"].splitlines() if x.startswith("| code |"))
    assert f"| {twins['shared']} | {twins['only_a']} | {twins['only_b']} |" in row
    label = nano["features"]["labels"]["share"]
    row = next(x for x in tables["labels"].splitlines() if x.startswith("| strong firings |"))
    cells = row.split(" | ")
    assert cells[1] == f"{label['f1_a']:.0%}".replace("%", "\u202f%")
    assert cells[3] == f"{label['f1_b']:.0%}".replace("%", "\u202f%")

    probe = nano["probes"]["L2-1024"]["mean"]["retrained"]["10"]
    row = next(
        x for x in tables["probes"].splitlines() if x.startswith("| transferred, retrained |")
    )
    assert (
        f"{probe['accuracy']:.2f} [{probe['low']:.2f}, {probe['high']:.2f}]" in row.split(" | ")[4]
    )

    saved = next(
        x
        for x in nano["sae_training"]["L2-L3"]["savings_exact"]
        if (x["width"], x["share"]) == (1024, 0.9)
    )
    row = next(x for x in tables["training"].splitlines() if "%, stitch exact" in x and "90" in x)
    assert f"{saved['ratio']:.2f} [{saved['low']:.2f}, {saved['high']:.2f}]" in row


@pytest.mark.parametrize("pair", PAIRS)
def test_every_table_has_as_many_cells_as_columns(pair: str) -> None:
    tables = re.findall(r"(?:^\|.*\|\n?)+", as_markdown(get_pair(pair)), re.MULTILINE)
    assert len(tables) >= 15
    for table in tables:
        assert len({line.count(" | ") for line in table.strip().splitlines()}) == 1, table


def test_numbers_are_written_one_way() -> None:
    assert number(0.8735, 0.7954, 0.9371) == "0.87 [0.80, 0.94]"
    assert number(0.9956, 0.9921, 0.9982) == "0.996 [0.992, 0.998]"
    assert number(-0.0123, sign=True) == "−0.012"
    assert number(float("nan")) == "–"
    assert percent(0.1597, 0.1475, 0.174, sign=True) == "+16 [+15, +17]\u202f%"
    assert fixed(3.9027, 3.8076, 3.9972) == "3.90 [3.81, 4.00]"
    assert plain("a|b <i> *c*\n[d]") == r"a&#124;b &lt;i> \*c\* \[d\]"
    assert short_names("SmolLM2-135M-Instruct", "Gemma-3-270M") == {"a": "SmolLM2", "b": "Gemma"}
    assert short_names("Gemma-2-2B", "Gemma-2-9B") == {"a": "Gemma-2-2B", "b": "Gemma-2-9B"}


def test_what_readme_says_in_short_holds() -> None:
    """Its words, against the shipped workspaces."""
    for pair in map(report, map(get_pair, PAIRS)):
        for stitch in pair["stitches"].values():  # round trips are nearly free
            losses = stitch["downstream_details"]
            assert all(losses[k]["relative"] < 0.06 for k in ("a_to_b_to_a", "b_to_a_to_b"))
        assert 0.4 <= 1 - pair["sae"]["transferred"]["fuv"] <= 0.6, "about half of the variance"
        assert 1 - pair["sae"]["shuffled"]["fuv"] <= 0, "a stitch of shuffled pairs: none"

        probes = next(iter(pair["probes"].values()))["mean"]
        assert probes["retrained"]["10"]["accuracy"] > probes["random"]["10"]["accuracy"] + 0.15
        rates = [
            language["transferred"]["rate"] for language in pair["steering"]["a_to_b"].values()
        ]
        assert sum(rates) / len(rates) >= 0.45, "vectors of the other model often work"

    within, across = (report(get_pair(pair)) for pair in PAIRS)
    assert within["features"]["correlation"]["transferred"]["median"] > 0.5
    by_kind = across["features"]["median_by_kind"]
    assert across["features"]["correlation"]["transferred"]["median"] < 0.1
    assert by_kind["structural"] > by_kind["semantic"]
    assert within["functional"]["attention"]["kept"] > 0.5
    for pair in (within, across):
        candidates, random = (
            pair["functional"]["entropy"]["a"][k] for k in ("candidates", "random")
        )
        assert candidates["entropy"] < random["entropy"], "entropy features were not found"

    for trained in sae_tables.reported(within).values():
        at_90 = [x for x in trained["savings_exact"] if x["share"] == 0.9]
        assert max(x["high"] for x in at_90) < 0.5, "less than half the compute"
    for trained in sae_tables.reported(across).values():
        at_90 = [x for x in trained["savings_exact"] if x["share"] == 0.9]
        assert min(x["low"] for x in at_90) > 1, "nothing saved with the stitch of the page"
    for study in across["sae_training"][sae_tables.ABLATIONS].values():
        carried = [x for x in study["starts"] if x["start"].startswith("transferred")]
        best = min(carried, key=lambda x: x["ratio_90"])
        assert 0.75 < best["ratio_90"] < 0.85 and best["high_90"] < 1, "a fifth at best"


def test_the_map_is_that_of_core() -> None:
    text = WRITTEN["docs/architecture.md"]
    rows = re.findall(r"^\| `(\w+)` \|", text.partition("## The same names")[0], re.MULTILINE)
    assert rows == house.boxes()


def test_the_tree_of_readme_is_that_of_core() -> None:
    (tree,) = [block for block in documents.code(README, "") if "core/\n" in block]
    inside = tree.partition("core/\n")[2].partition("pages/")[0]
    words = [re.split(r" {3,}", line.strip())[0] for line in inside.splitlines()]
    assert [name.strip("/") for names in words for name in names.split()] == house.boxes()


def test_the_reference_has_every_module() -> None:
    pages = sorted((PROJECT / "docs" / "reference").glob("*.md"))
    named = {
        m for page in pages for m in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    }
    assert named == {module for module in house.modules() if not module.startswith("core.cli.")}


@pytest.mark.whole
def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    """`make docs`, into another folder."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"]
    done = subprocess.run(
        [*command, str(tmp_path / "site")],
        cwd=PROJECT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    fetched = re.compile(r"""<(?:script|img)[^>]*\bsrc="https?:|<link[^>]*stylesheet[^>]*https?:""")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(list((PROJECT / "docs").rglob("*.md")))
    for page in pages:
        assert not fetched.search(page.read_text("utf-8")), page.name


@pytest.mark.whole
@pytest.mark.parametrize("path", notebooks.NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path) -> None:
    """And still say what they were kept with: counts and shares to a digit or so."""
    ran = notebooks.printed(notebooks.run(path, tmp_path))
    kept = notebooks.printed(nbformat.read(path, as_version=4))
    assert ran
    if path.stem != "steer":  # what is written depends on the last bit of a logit
        assert figures(ran) == pytest.approx(figures(kept), rel=0.1, abs=0.05)
    carried, random = (re.search(rf"^{k} .* in (\d+) of", ran, re.M) for k in ("carried", "random"))
    if carried and random:
        assert int(carried[1]) >= int(random[1]) + 6


def figures(text: str) -> list[float]:
    """Every number but those of a few units in the last place."""
    numbers = re.findall(r"(?<![\w-])-?\d[\d,]*\.?\d*(?![\w-])", text)
    return [float(number.replace(",", "")) for number in numbers]


def test_small_files_are_what_their_readers_want() -> None:
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text("utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == __version__
    paper = citation["preferred-citation"]
    assert [x["family-names"] for x in paper["authors"]] == ["Chen", "Merullo", "Stolfo", "Pavlick"]
    assert paper["title"] in README

    releases = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", WRITTEN["CHANGELOG.md"], re.M)
    assert releases[0] == ("Unreleased", "")
    assert releases[1][0] == __version__
    assert releases[1][1] == str(citation["date-released"])

    for path in (PROJECT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(path.read_text("utf-8"))
        if path.stem != "config":
            assert {"name", "description", "body"} <= form.keys()
            assert len({x["id"] for x in form["body"]}) == len(form["body"])
    (local,) = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert all(hook["entry"].startswith(".venv/bin/ruff") for hook in local["hooks"])


def test_pictures_are_small_and_of_the_size_that_is_taken() -> None:
    shown = {name for text in WRITTEN.values() for name in re.findall(r"(\w+)\.png\)", text)}
    assert shown == pictures.PICTURES.keys()
    for name, picture in pictures.PICTURES.items():
        png = (PROJECT / "docs" / f"{name}.png").read_bytes()
        assert len(png) < pictures.LARGEST
        assert struct.unpack(">II", png[16:24]) == picture.size, "tests.helpers.pictures takes it"


def test_notebooks_are_small_and_kept_with_outputs() -> None:
    assert [path.stem for path in notebooks.NOTEBOOKS] == ["carry_an_sae", "fit_a_stitch", "steer"]
    for path in notebooks.NOTEBOOKS:
        assert path.stat().st_size < 20_000
        cells = [
            c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "code"
        ]
        assert cells[-1]["outputs"], "`python -m tests.helpers.notebooks` runs and keeps them"
