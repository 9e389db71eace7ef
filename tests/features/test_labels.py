"""Labels: the best set by brute force, F1 by hand on planted features, predicates of places in five
scripts."""

from itertools import combinations

import numpy as np
import pytest
from scipy import sparse as sp

from core.features import labels
from core.features.labels import Label, best_sets
from core.features.predicates import (
    FAMILIES,
    Describer,
    Piece,
    folded,
    insides,
    language,
    script,
    shape,
)
from core.features.vocabulary import NAMES, Index, Vocabulary
from core.text.corpus import Document

TOKEN, BEFORE = NAMES.index("token"), NAMES.index("token before")


def test_the_best_set_is_that_of_trying_them_all() -> None:
    g = np.random.default_rng(0)
    for trial in range(40):
        m, most = 9, 1 + trial % 4
        held = g.integers(1, 40, m).astype(float)
        hits = np.minimum(g.integers(0, 30, m), held)
        firings = np.array([hits.sum() + g.integers(0, 20)], dtype=float)
        sets = best_sets(np.zeros(m, dtype=np.int64), hits, held, firings, most)
        tried = [
            2 * hits[list(c)].sum() / (firings[0] + held[list(c)].sum())
            for size in range(1, most + 1)
            for c in combinations(range(m), size)
        ]
        assert sets.f1[0] == pytest.approx(max(tried))
        assert len(sets.picked) <= most


def test_groups_are_searched_apart() -> None:
    group = np.array([0, 1, 0, 2])
    sets = best_sets(group, np.array([4.0, 1, 2, 0]), np.array([4.0, 9, 8, 5]), np.full(3, 6.0))
    assert sets.f1.tolist() == pytest.approx([0.8, 2 / 15, 0])
    assert sorted(sets.picked.tolist()) == [0, 1]


def index(tokens: list[str], before: list[str], vocabulary: Vocabulary) -> Index:
    """Places that a token and the one before it describe."""
    numbers = vocabulary._numbers
    rows = [
        [
            numbers.setdefault((TOKEN, t), len(numbers)),
            numbers.setdefault((BEFORE, b), len(numbers)),
        ]
        for t, b in zip(tokens, before, strict=True)
    ]
    columns = np.array(rows).ravel()
    starts = np.arange(0, len(columns) + 1, 2)
    data = np.ones(len(columns), dtype=np.float32)
    return Index(sp.csr_matrix((data, columns, starts), shape=(len(tokens), len(numbers))))


TOKENS = ["cat", "dog", "the", "cat", "a", "cow", "the", "cat", "dog", "is"]
BEFORES = ["the", "the", "is", "a", "is", "the", "a", "the", "a", "cow"]
FIRES = np.array(
    [
        # both animals   "cat" after "the"   nothing in words
        [5, 2, 0],
        [4, 0, 0],
        [0, 0, 1],
        [6, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
        [0, 0, 0],
        [5, 3, 0],
        [4, 0, 0],
        [0, 0, 0],
    ],
    dtype=np.float32,
)


def test_planted_features_have_the_labels_and_the_f1_of_a_hand_count() -> None:
    vocabulary = Vocabulary()
    places = index(TOKENS, BEFORES, vocabulary)
    chosen = labels.choose(places, vocabulary, sp.csc_matrix(FIRES))
    said = [labels._said(label, vocabulary)["label"] for label in chosen]
    assert said == ['"cat" "dog"', '"cat" · after "the"', ""]
    assert [label.f1 for label in chosen] == pytest.approx([1, 1, 0])

    scores = labels.score(chosen, places, sp.csc_matrix(FIRES))
    assert scores.f1.tolist() == pytest.approx([1, 1, 0])
    other = FIRES.copy()
    other[[0, 2], 0] = 0, 5  # lost at a cat, new at a "the": 4 of 5 places hit, 4 of 5 firings
    again = labels.score(chosen, places, sp.csc_matrix(other))
    assert again.f1[0] == pytest.approx(0.8)
    assert again.precision[0] == pytest.approx(0.8) and again.recall[0] == pytest.approx(0.8)
    silent = labels.score(chosen, places, sp.csc_matrix((10, 3), dtype=np.float32))
    assert silent.f1.isna().all()
    exchanged = labels.score([chosen[2], *chosen[:2]], places, sp.csc_matrix(FIRES))
    assert exchanged.f1.tolist() == pytest.approx([0, 2 * 2 / (2 + 5), 0])


def test_a_value_that_the_training_text_lacks_holds_nowhere() -> None:
    vocabulary = Vocabulary()
    places = index(TOKENS, BEFORES, vocabulary)
    assert len(places.where([])) == 0 and len(places.both([0], [])) == places.counts[0]
    assert places.within(np.zeros(0, dtype=np.int32)).tolist() == []
    assert labels._said(Label(), vocabulary)["label"] == ""


def described(text: str, pieces: list[str], label: str = "eng") -> list[dict[str, str]]:
    ends = np.cumsum([len(p) for p in pieces]).tolist()
    spans = {k: Piece(e - len(p), e) for k, (p, e) in enumerate(zip(pieces, ends, strict=True))}
    assert "".join(pieces) == text
    return [values for _, values in Describer().describe(Document("d@0+0", label, text), spans)]


def test_places_of_an_english_sentence() -> None:
    text = "The Viet namese cook saw 12 dogs.\nThe end"
    pieces = [
        "The",
        " Viet",
        " name",
        "se",
        " cook",
        " saw",
        " 12",
        " dogs",
        ".",
        "\n",
        "The",
        " end",
    ]
    places = described(text, pieces)
    assert all(values.keys() <= FAMILIES.keys() for values in places)
    the, viet, name, se, _, saw, twelve, dogs, _, line, again, end = places
    assert the["part of speech"] == "article" and viet["token before"] == "the"
    assert name["place in the word"] == "beginning of a word" and "word before" in name
    assert se["word so far"] == "namese" and se["end of two"] == "se"
    assert se["place in the word"] == "end of a word" and viet["shape"] == "a capitalised piece"
    assert saw["part of speech"] == "verb, past tense" and twelve["shape"] == "a number"
    assert (
        dogs["part of speech"] == "plural noun"
        and dogs["part of speech before"] == "cardinal number"
    )
    assert line["shape"] == "a line break" and again["place in the line"] == "the first token"
    assert again["seen"] == "seen before in the text" and end["seen"] == "new in the text"
    assert end["start of the line"] == "the" and end["language"] == "English"
    assert end["token before that"] == "\n" and dogs["token after"] == "."


@pytest.mark.parametrize(
    ("label", "text", "pieces", "name", "said", "word"),
    [
        ("rus", "Привет, мир", ["При", "вет", ",", " мир"], "Cyrillic", "Russian", "мир"),
        ("ell", "καλημέρα", ["καλη", "μέρα"], "Greek", "Greek", "καλημέρα"),
        ("ara", "مرحبا بالعالم", ["مرحبا", " بال", "عالم"], "Arabic", "Arabic", "بالعالم"),
        ("zho", "你好世界", ["你好", "世", "界"], "Cjk", "Chinese", "你好世界"),
        ("vie", "Việt Nam", ["Vi", "ệt", " Nam"], "Latin", "Vietnamese", "nam"),
    ],
)
def test_places_in_five_scripts(
    label: str, text: str, pieces: list[str], name: str, said: str, word: str
) -> None:
    places = described(text, pieces, label)
    assert places[-1]["script"] == name and places[-1]["language"] == said
    assert places[-1]["word so far"] == word
    assert places[0]["token"] == pieces[0] and "part of speech" not in places[0]


def test_code_knows_what_is_open() -> None:
    text = "f(x, [1]) # see {\ny = 'a'"
    inside = insides(text, code=True)
    assert inside[text.index("x")] == "brackets" and inside[text.index("1")] == "square brackets"
    assert inside[text.index("a'")] == "quotation marks" and inside[0] == ""
    pieces = ["f(x, [1]) ", "#", " see {", "\n", "y", " = 'a'"]
    places = described(text, pieces, "coding/python")
    assert places[2]["inside"] == "a comment" and places[2]["language"] == "python"
    assert places[4]["inside"] != "a comment" and places[2]["kind of text"] == "code"


def test_small_words() -> None:
    assert folded(" French") == "french" and folded("\n ") == "\n "
    assert shape("ABC") == "capital letters" and shape(" A") == "a capital letter"
    assert shape("){") == "signs" and shape("a1") == "letters and signs" and shape("  ") == "space"
    assert script("!") == "" and script("é") == "Latin"
    assert language(Document("x@0+0", "mine", "")) == "mine"
    assert labels.spoken("end of two", ["ed", "ng"]) == '"…ed" "…ng"'
    assert labels.spoken("token after", ["\n"]) == 'before "\\n"'
    assert labels.spoken("language", ["French", "Dutch"]) == "in French or Dutch"
