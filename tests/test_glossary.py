"""Every word of the field is explained once, and pages and documents say it in the same words."""

import ast
import re
from collections import Counter

import pytest

from core.workspace.places import PROJECT
from pages.shared import glossary
from pages.shared.words import explained
from tests.helpers import documents

TERMS = glossary.terms()
SHOWN = {
    "crossing": ("KL", "Lens", "Control", "Crossed", "Temperature", "bits/byte"),
    "stitches": (
        "SVCCA",
        "FUV of Gemma ↓",
        "Inversion, SmolLM2 → Gemma → SmolLM2 ↓",
        "Objective ↓",
        "Gemma, crossed",
        "Patched",
        "α",
        "Metric",
        "Loss, nats/token ↓",
        "Bits/byte ↓",
        "Relative ↓",
        "Effective rank, SmolLM2 → Gemma",
        "Gemma, mean-ablated",
        "shuffled pairs",
        "unpatched",
    ),
    "features": (
        "Attribution correlation ↑",
        "Class",
        "semantic",
        "structural",
        "Consistency",
        "Density, SmolLM2",
        "Same top contexts",
        "Raises in SmolLM2",
        "L0",
        "FUV ↓",
        "Cosine ↑",
        "L2 ratio",
        "Dead ↓",
        "Δ loss ↓",
        "CE score ↑",
        "Rank",
        "Explained variance ↑",
    ),
    "functional": (
        "Null space",
        "Entropy feature",
        "Path patching",
        "Sink",
        "Entropy",
        "Ablation",
        "Head",
        "Heuristic score",
    ),
    "steering": (
        "Steering vector",
        "DiffMean",
        "z̄",
        "Clamp",
        "Strength",
        "Lane",
        "Transfer gap",
        "In the language ↑",
        "and fluent ↑",
        "nats/token ↓",
        "Transferred vector",
        "Fluency",
    ),
    "probes": (
        "Probe",
        "Retrained",
        "Reused",
        "Dense, SmolLM2's",
        "Centred",
        "AUC",
        "Features, k",
        "Accuracy ↑",
        "Difference in SmolLM2",
    ),
    "training": ("Start", "FLOPs", "Auxiliary loss", "Cosine to start", "Frontier"),
}
"""What stands on each page and is no everyday word."""


def test_no_word_is_explained_twice() -> None:
    words = [word.casefold() for term in TERMS for word in (term.name, *term.also)]
    assert [word for word, times in Counter(words).items() if times > 1] == []
    assert len({term.says for term in TERMS}) == len(TERMS) > 60


def test_every_term_has_a_topic_and_a_sentence() -> None:
    assert {term.topic for term in TERMS} == set(glossary.topics())
    for term in TERMS:
        assert term.says.endswith("."), term.name
        assert len(term.says) < 220, f"{term.name}: a line or two beside a label"
        assert not re.search(r"\bEq\.|\b[AB]'s|\bmodel [AB]\b", term.says), term.name


def test_places_in_the_paper_are_of_its_form() -> None:
    """Sections 2 to 5.2 and appendices, each equation, table and figure that it has."""
    places = [place for term in TERMS if term.where for place in re.split(", | and ", term.where)]
    form = r"[2-5](\.[12])?|[A-H](\.[1-3])?|(Eq\. )?(1?\d)|Fig\. \d{1,2}[a-c]?|Table [1-6]"
    assert len(places) > 60
    assert [place for place in places if not re.fullmatch(form, place)] == []


@pytest.mark.parametrize("page", SHOWN)
def test_what_a_page_names_is_explained(page: str) -> None:
    assert [label for label in SHOWN[page] if explained(label) is None] == []


@pytest.mark.parametrize("label", ["Stitch", "SAE"])
def test_nouns_of_the_paper_are_terms(label: str) -> None:
    assert explained(label)


@pytest.mark.parametrize("label", ["Documents", "MB", "SmolLM2 → Gemma ↓", "Name", ""])
def test_everyday_words_are_not(label: str) -> None:
    assert explained(label) is None


def test_a_label_is_found_as_pages_write_it() -> None:
    assert explained(r":blue[FUV, nano\-a → nano\-b ↓]") == explained("FUV")
    assert explained("FUV") != explained("inversion")


def test_help_that_pages_ask_for_by_name_is_there() -> None:
    """`explained("…")` with a word that is in no glossary would be an empty help."""
    asked = []
    for path in sorted((PROJECT / "pages").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "explained":
                asked += [word.value for word in node.args if isinstance(word, ast.Constant)]
    assert len(asked) >= 8
    assert [word for word in asked if explained(word) is None] == []


def test_the_document_is_written_from_it() -> None:
    written = documents.GLOSSARY.read_text("utf-8")
    assert written == glossary.as_markdown(), "`make docs-results` writes it again"
    for term in TERMS:
        assert term.says in written
