"""Rewrites keep what they should and change the rest; consistency is a count; known answers come
out right."""

from collections.abc import Sequence

import numpy as np
import pytest
from sae_lens import SAE

from core.features.tables import kinds_of_features
from core.features.taxonomy import (
    REWRITES,
    TagRewriter,
    active_features,
    consistency,
    english_sentences,
    is_content,
    validate_rewriter,
)
from core.text.corpus import Corpus, load_corpus
from tests.helpers.small import Tiny

SENTENCE = "When the old sailors quickly painted three boats in LONDON, Maria did not see them."


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus("wheel:eng")


@pytest.fixture(scope="module")
def rewrite(corpus: Corpus) -> TagRewriter:
    return TagRewriter(corpus.split("fit")[:1500])


def test_structure_is_kept_and_content_changed(rewrite: TagRewriter) -> None:
    versions = rewrite(SENTENCE, REWRITES)
    assert len(set(versions)) == REWRITES
    tags = rewrite.tagged(SENTENCE)
    for version in versions:
        words = [w for _, w, _ in rewrite.tagged(version)]
        for kept in ("When", "the", "three", "in", ",", "did", "not", "them", "."):
            assert kept in words
        assert not {
            "old",
            "sailors",
            "quickly",
            "painted",
            "boats",
            "LONDON",
            "Maria",
            "see",
        } & set(words)
        assert version.startswith("When the ") and version.endswith(" them.")
    plain = [v for v in versions if len(rewrite.tagged(v)) == len(tags)]
    assert plain, "where every word is one word, each stands at its place"
    for version in plain:
        for (_, old, tag), (_, new, _) in zip(tags, rewrite.tagged(version), strict=True):
            assert (old == new) != is_content(old.lower(), tag)
            assert old[0].isupper() == new[0].isupper() or not new[0].isalpha()


def test_rewrites_are_seeded(rewrite: TagRewriter, corpus: Corpus) -> None:
    assert rewrite(SENTENCE, 3) == rewrite(SENTENCE, 3)
    assert TagRewriter(corpus.split("fit")[:1500], seed=1)(SENTENCE, 3) != rewrite(SENTENCE, 3)


def test_known_answers(rewrite: TagRewriter) -> None:
    found = validate_rewriter(rewrite)
    assert found["n"] > 50
    assert found["precision"] >= 0.9, found
    assert found["recall"] >= 0.9, found

    def same(sentence: str, k: int) -> list[str]:
        return [sentence] * k

    assert validate_rewriter(same)["precision"] < 0.7, (
        "a rewriter that changes nothing is found out"
    )


def test_consistency_is_a_count() -> None:
    versions = {"s": ["a", "b"], "t": ["c", "d"], "u": ["e", "f"]}
    on = {
        "s": "110",
        "a": "110",
        "b": "111",
        "t": "100",
        "c": "000",
        "d": "100",
        "u": "100",
        "e": "101",
        "f": "100",
    }

    def active(texts: Sequence[str]) -> np.ndarray:
        return np.array([[c == "1" for c in on[t]] for t in texts])

    table = consistency(active, list(versions), lambda s, k: versions[s][:k], 2)
    assert table.sentences.tolist() == [3, 1, 0]
    assert table.consistent.tolist() == [2, 1, 0]
    assert table.consistency[:2].tolist() == pytest.approx([2 / 3, 1.0])
    assert np.isnan(table.consistency[2])
    table["density_a"] = [0.1, 0.1, 0.0]
    assert kinds_of_features(table, 0.7, least=1).tolist() == ["semantic", "structural", "dead"]
    assert kinds_of_features(table, 0.5, least=2).tolist() == ["structural", "unseen", "dead"]
    assert consistency(active, [], lambda s, k: [], 2).empty


def test_sentences_are_english_and_whole(corpus: Corpus) -> None:
    found = english_sentences(corpus.split("select"), 50)
    assert len(found) == 50 == len(set(found))
    assert all(s[-1] in ".!?" and len(s.split()) >= 6 for s in found)


def test_over_a_real_model(tiny: Tiny, corpus: Corpus, rewrite: TagRewriter) -> None:
    model = tiny("llama")
    sae = SAE.from_dict(
        {
            "architecture": "topk",
            "k": 4,
            "d_in": model.spec.d_model,
            "d_sae": 64,
            "dtype": "float32",
            "device": "cpu",
        }
    )
    active = active_features(model, sae, 1)
    one, other, both = (
        active([SENTENCE]),
        active(["Nothing else."]),
        active([SENTENCE, "Nothing else."]),
    )
    assert np.array_equal(both, np.concatenate([one, other]))
    table = consistency(active, english_sentences(corpus.split("select"), 8), rewrite)
    assert len(table) == 64
    assert (table.consistent <= table.sentences).all()
    assert 0 < table.consistent.sum() < table.sentences.sum()
