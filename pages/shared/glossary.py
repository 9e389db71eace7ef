"""The field's words, each explained once, for pages and documents alike: `glossary.toml` read, and
searched by what a label says."""

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from core.config import Frozen

PAPER = "https://arxiv.org/abs/2506.06609"
HERE = Path(__file__).with_name("glossary.toml")
ARROWS = re.compile(r"\s*[↑↓]$")
PARTS = re.compile(r", | of | in ")


class Term(Frozen):
    """A word of the field."""

    name: str
    topic: str
    says: str
    """One or two sentences, without a formula."""
    where: str = ""
    """In the paper: a section, and an equation, table or figure there. Empty for what the paper
    does not name."""
    also: tuple[str, ...] = ()
    """Other words for it on pages."""

    @property
    def line(self) -> str:
        """As it stands beside a label."""
        return f"{self.says} ({self.where})" if self.where else self.says


@cache
def _read() -> dict[str, Any]:
    return tomllib.loads(HERE.read_text("utf-8"))


def topics() -> dict[str, str]:
    """Titles by key, in order."""
    return dict(_read()["topics"])


@cache
def terms() -> tuple[Term, ...]:
    """All of them, in the order of the paper."""
    return tuple(Term.model_validate(entry) for entry in _read()["term"])


@cache
def _by_word() -> dict[str, Term]:
    return {word.casefold(): term for term in terms() for word in (term.name, *term.also)}


def find(label: str) -> Term | None:
    """What a label names: `FUV of Gemma ↓` and `Gemma, crossed` are found by a part of them. None
    where it is no word of the field."""
    bare = ARROWS.sub("", label.strip())
    words = (bare, *PARTS.split(bare))
    found = (_by_word().get(word.strip().casefold()) for word in words)
    return next((term for term in found if term is not None), None)


def as_markdown() -> str:
    """The glossary as a document."""
    lines = [
        "# Glossary",
        "",
        "The words of the field as this project uses them. Numbers lead to sections, equations,"
        f" tables and figures of [the paper]({PAPER}).",
    ]
    for topic, title in topics().items():
        lines += ["", f"## {title}", ""]
        for term in terms():
            if term.topic == topic:
                where = f" [({term.where})]({PAPER})" if term.where else ""
                lines.append(f"- **{term.name}**: {term.says}{where}")
    return "\n".join(lines) + "\n"
