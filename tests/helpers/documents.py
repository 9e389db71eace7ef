"""README, docs/ and what they hold: links, commands, code, and tables that come from workspaces.

`python -m tests.helpers.documents` writes the tables of docs/results.md, docs/performance.md and README, and
docs/glossary.md, again.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer

from core.cli.losses import in_short
from core.cli.main import app
from core.cli.markdown import sections
from core.cli.tables import short_names
from core.models.pairs import get_pair
from core.report import report
from core.workspace.places import PROJECT
from pages.shared.glossary import as_markdown
from tests.helpers import performance

GLOSSARY = PROJECT / "docs" / "glossary.md"
RESULTS = PROJECT / "docs" / "results.md"
TABLED = (RESULTS, PROJECT / "README.md")
"""Documents whose tables come from workspaces."""
REPORTED = re.compile(r"<!-- report (?P<pair>\S+) (?P<topic>\S+) -->\n.*?<!-- end -->", re.DOTALL)
FENCED = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
COMMAND = re.compile(r"(?:python|\.venv/bin/python) -m core (?P<words>[^`|]+)")


def documents() -> list[Path]:
    """Everything that people read, the pages of the documentation site among it."""
    return [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").rglob("*.md"))]


@cache
def tables(pair: str) -> dict[str, str]:
    """See `core.cli.markdown.sections`; and `kinds`, what crossing costs in short."""
    spec = get_pair(pair)
    names = short_names(spec.a.title, spec.b.title)
    return sections(spec) | {"kinds": in_short(report(spec), names)}


def with_tables(text: str) -> str:
    """A document whose tables between `<!-- report PAIR TOPIC -->` and `<!-- end -->` are those of
    the workspaces."""

    def section(marked: re.Match[str]) -> str:
        pair, topic = marked["pair"], marked["topic"]
        return f"<!-- report {pair} {topic} -->\n\n{tables(pair)[topic]}\n\n<!-- end -->"

    return REPORTED.sub(section, text)


def anchor(title: str) -> str:
    """What GitHub and MkDocs make of a heading, for plain headings."""
    words = re.sub(r"[`*]", "", title).strip().lower()
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", words))


def broken_links(path: Path, text: str) -> list[str]:
    """Links of a document to files or headings that are not there; the web is not asked."""
    broken = []
    for link in LINK.finditer(FENCED.sub("", text)):
        file, _, heading = link["target"].partition("#")
        if re.match(r"(https?|mailto):", file):
            continue

        target = path.parent / file if file else path
        if not target.exists():
            broken.append(link["target"])
        elif heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)
            if heading not in {anchor(title) for title in titles}:
                broken.append(link["target"])
    return broken


def code(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [block["code"] for block in FENCED.finditer(text) if block["language"] == language]


def commands(text: str) -> Iterator[list[str]]:
    """Every `python -m core …` of a document as a list of words, in code blocks and in lines."""
    joined = text.replace("\\\n", " ")
    lines = [line for block in FENCED.finditer(joined) for line in block["code"].splitlines()]
    lines += re.findall(r"`([^`\n]+)`", FENCED.sub("", joined).replace("\n", " "))
    for line in lines:
        for command in re.split(r"&&|;", line):
            if found := COMMAND.search(command):
                yield shlex.split(found["words"], comments=True)


def parses(words: list[str]) -> bool:
    """Whether the command line takes these words; nothing is run."""
    root: Any = typer.main.get_command(app)
    waiting = [root]
    while waiting:
        command = waiting.pop()
        command.callback = None
        waiting += getattr(command, "commands", {}).values()
    try:
        root.main(list(words))
    except SystemExit as done:
        return done.code == 0
    return False


def imports(source: str) -> Iterator[tuple[str, str]]:
    """(module, name) of everything that a block of Python imports from core."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("core"):
            yield from ((str(node.module), alias.name) for alias in node.names)


if __name__ == "__main__":
    for path in TABLED:
        path.write_text(with_tables(path.read_text("utf-8")), "utf-8")
    page = performance.PERFORMANCE
    page.write_text(performance.with_measured(page.read_text("utf-8")), "utf-8")
    GLOSSARY.write_text(as_markdown(), "utf-8")
