"""What stands around a document, against the source that it was cut from."""

import re

import pytest

from core.text.corpus import build_corpus
from core.text.surroundings import Neighbours, titled


def source(sentences: int) -> str:
    """Numbered sentences, every fourth the last of a line, every twelfth of a paragraph."""
    parts = []
    for k in range(sentences):
        parts.append(f"Sentence {k} tells of the number {k * k} and of nothing else at all.")
        parts.append("\n\n\n" if k % 12 == 11 else "\n" if k % 4 == 3 else " ")
    return "".join(parts)


def flat(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("most", [0, 1, 50, 700, 10**6])
def test_surroundings_are_the_sources_own_text(most: int) -> None:
    text = source(100)
    corpus = build_corpus("planted", [("other", "x", source(3)), ("one", "x", text)])
    texts = {document.id: document.text for document in corpus.documents}
    neighbours = Neighbours(texts)
    for document in corpus.documents[1:]:
        around = neighbours.around(document.id, most)
        assert flat(around.before + " " + document.text + " " + around.after) in flat(text)
        assert len(around.before) <= most and len(around.after) <= most
        starts = flat(text).startswith(flat(around.before + " " + document.text))
        assert starts or not around.begins
        ends = flat(text).endswith(flat(document.text + " " + around.after))
        assert ends or not around.ends
        if most == 10**6:
            assert around.begins and around.ends
        if most == 700 and not around.begins:
            assert len(around.before) > 600, "as much as there is room for"


def test_paragraphs_end_where_they_did_and_lines_of_code() -> None:
    text = source(60)
    corpus = build_corpus("planted", [("one", "x", text)])
    neighbours = Neighbours({document.id: document.text for document in corpus.documents})
    first = corpus.documents[0]
    whole = first.text + neighbours.around(first.id, 10**6).after
    paragraphs = [flat(part) for part in re.split(r"\n{2,}", text.strip())]
    assert [flat(part) for part in re.split(r"\n{2,}", whole)] == paragraphs

    code = "".join(f"value_{k} = compute(value_{k - 1}, {k})\n" for k in range(1, 80))
    corpus = build_corpus("planted", [("one", "x", code)])
    neighbours = Neighbours({document.id: document.text for document in corpus.documents})
    first = corpus.documents[0]
    assert first.text + neighbours.around(first.id, 10**6).after == code.strip()


def test_what_is_no_document_is_passed_over_and_shown_as_a_gap() -> None:
    repeated = "The same words stand here again, for the second time in this source.\n" * 6
    text = f"{repeated}\n{'a' * 300} one\n\n{repeated}\n{'b' * 300} two"
    corpus = build_corpus("planted", [("one", "x", text)])
    texts = {document.id: document.text for document in corpus.documents}
    assert len(texts) == 3, "the second of two equal pieces is no document"
    before = Neighbours(texts).around(corpus.documents[-1].id, 10**6)
    assert "one\n…\n" in before.before and before.begins and before.ends


def test_a_document_without_a_pointer_stands_alone() -> None:
    around = Neighbours({"a": "text", "b@1": "more"}).around("a")
    assert (around.before, around.after, around.begins, around.ends) == ("", "", True, True)


@pytest.mark.parametrize(
    ("document", "title"),
    [
        ("eng/history@246+93676", "English, history"),
        ("fra/fra@266+95279", "French"),
        ("coding/c++/c++@40+18354", "code, c++"),
        ("notes/<b>.txt@0+0", "notes/<b>.txt"),
        ("without pointer", "without pointer"),
    ],
)
def test_a_document_is_named_by_its_source(document: str, title: str) -> None:
    assert titled(document) == title
