"""Top contexts are those of a full sort, a document counts once, quantiles are ordered, overlaps
have known values."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import SAE

from core.errors import StitchLensError
from core.features.examples import (
    AFTER,
    BEFORE,
    BINS,
    FROM_EACH,
    QUANTILES,
    SHOWN,
    TOP,
    Examples,
    bins,
    lean,
    shared_places,
    short,
)
from core.features.overlap import jaccard, overlap, rank_biased_overlap
from core.features.reading import read_text
from core.features.recorded import Recorded
from core.features.tables import unpacked
from core.models import hooks
from core.models.pairs import LayerPair
from core.text.corpus import Corpus, Document
from tests.helpers.small import Tiny, read_by_both


def made_up(
    documents: int, features: int, seed: int
) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Sparse activations of documents with 1 to 30 tokens each; ties are likely."""
    g = np.random.default_rng(seed)
    lengths = g.integers(1, 31, documents)
    document = np.repeat(np.arange(documents), lengths)
    position = np.concatenate([np.arange(1, n + 1) for n in lengths])
    acts = np.where(
        g.random((len(document), features)) < 0.1, g.integers(1, 50, (len(document), features)), 0
    )
    return torch.from_numpy(acts.astype(np.float32)), document, position


def named(n: int) -> list[Document]:
    return [Document(id=f"d{k}@0", label="eng", text="-") for k in range(n)]


@given(seed=st.integers(0, 1000), step=st.integers(1, 60))
@settings(deadline=None, max_examples=15)
def test_tops_are_those_of_a_full_sort(seed: int, step: int) -> None:
    acts, document, position = made_up(60, 5, seed)
    found = Examples(5)
    for first in range(0, 60, step):
        part = (document >= first) & (document < first + step)
        found.update(
            acts[torch.from_numpy(part)], document[part], position[part], 3 * position[part]
        )
    table = found.table(named(60))
    for feature in range(5):
        rows = pd.DataFrame(
            {"document": document, "position": position, "value": acts[:, feature].numpy()}
        )
        rows = rows.assign(less=-rows.value).query("value > 0").sort_values(["less", "position"])
        best = rows.drop_duplicates("document").sort_values(["less", "document"])[:TOP]
        top = table[(table.feature == feature) & (table.group == "top")]
        assert top.activation.tolist() == best.value.tolist()
        assert top.document.tolist() == [f"d{d}@0" for d in best.document]
        assert top.position.tolist() == best.position.tolist()
        assert top["rank"].tolist() == list(range(len(top)))


def test_quantiles_are_ordered_and_apart_from_the_top() -> None:
    acts, document, position = made_up(400, 3, 1)
    found = Examples(3)
    found.update(acts, document, position, 3 * position)
    table = found.table(named(400))
    for _, rows in table.groupby("feature"):
        assert rows.document.is_unique
        groups = {str(g): part.activation for g, part in rows.groupby("group", observed=True)}
        assert {f"q{q}" for q in range(1, QUANTILES + 1)} < set(groups)
        for q in range(1, QUANTILES):
            assert len(groups[f"q{q}"]) == FROM_EACH
            assert groups[f"q{q}"].max() <= groups[f"q{q + 1}"].min()
        assert groups[f"q{QUANTILES}"].max() <= groups["top"].min()


def test_heat_is_that_of_the_tokens_around() -> None:
    """Every token ends at three times its position, which runs from 1 in each document."""
    acts, document, position = made_up(30, 2, 4)
    found = Examples(2)
    found.update(acts, document, position, 3 * position)
    table = unpacked(found.table(named(30)))
    value = {
        (d, p): a
        for d, p, a in zip(document.tolist(), position.tolist(), acts.tolist(), strict=True)
    }
    for row in table.to_dict("records"):
        d = int(row["document"][1:].split("@")[0])
        around = range(row["position"] - BEFORE, row["position"] + AFTER + 1)
        inside = [p for p in around if (d, p) in value]
        assert inside[row["peak"]] == row["position"]
        assert row["heat"] == pytest.approx(
            [value[d, p][row["feature"]] for p in inside], abs=row["activation"] / 500
        )
        assert row["heat"][row["peak"]] == pytest.approx(row["activation"])
        assert list(row["ends"]) == [
            3 * (inside[0] - 1),
            *(3 * p for p in inside),
        ], "each begins where one ended"


def test_what_is_kept_is_lean_and_shows_the_first() -> None:
    acts, document, position = made_up(60, 3, 2)
    found = Examples(3)
    found.update(acts, document, position, 3 * position)
    whole = found.table(named(60))
    kept = lean(whole)
    assert kept.document.to_list() == whole.document.to_list(), "tops are compared over all of them"
    shown = kept.heat.str.len() > 0
    assert (
        shown.to_list() == ((whole.group != "top") | (whole["rank"] < SHOWN)).to_list()
        and not shown.all()
    )
    assert (
        unpacked(kept.loc[shown]).heat.map(len).to_list()
        == unpacked(whole.loc[shown]).heat.map(len).to_list()
    )


@given(st.floats(2.0**-60, 2.0**60, width=32))
def test_what_is_kept_is_right_to_three_digits(x: float) -> None:
    assert short(np.array([x, 0.0], dtype=np.float32)) == pytest.approx([x, 0.0], rel=2**-11)


def test_bins_are_half_octaves() -> None:
    acts = torch.tensor([1.0, 1.4, 1.5, 2.0, 2.0**-10, 1e-9, 1e9])
    assert bins(acts).tolist() == [20, 20, 21, 22, 0, 0, BINS - 1]
    found = Examples(2)
    found.update(
        torch.tensor([[1.0, 0.0], [1.5, 0.0], [1.5, 3.0]]),
        np.zeros(3, int),
        np.arange(3),
        np.arange(3),
    )
    assert (found.histogram[0, 20], found.histogram[0, 21], found.histogram[1].sum()) == (1, 2, 1)


def test_a_silent_feature_has_no_examples() -> None:
    found = Examples(2)
    found.update(torch.tensor([[0.0, 1.0]]), np.array([0]), np.array([1]), np.array([4]))
    assert set(found.table(named(1)).feature) == {1}
    assert Examples(2).table(named(1)).empty


def test_overlaps_have_known_values() -> None:
    letters = list("abcdefghij")
    assert rank_biased_overlap(letters, letters) == pytest.approx(1)
    assert rank_biased_overlap(letters, list("klmnopqrst")) == 0
    assert rank_biased_overlap([], letters) == 0
    # two swapped at the head cost more than two swapped at the tail
    head, tail = ["b", "a", *letters[2:]], [*letters[:8], "j", "i"]
    assert rank_biased_overlap(letters, head) < rank_biased_overlap(letters, tail) < 1
    assert rank_biased_overlap(letters, head) == pytest.approx(
        1 - 0.1
    )  # only depth 1 differs: weight 1 - p
    assert rank_biased_overlap(letters[:4], letters) == pytest.approx(1), "a prefix is extrapolated"
    assert jaccard("abc", "bcd") == pytest.approx(0.5)
    assert jaccard([], []) == 0
    a = pd.DataFrame({"feature": 3, "group": "top", "rank": range(3), "document": ["x", "y", "z"]})
    b = pd.DataFrame(
        {"feature": [3, 3, 4], "group": "top", "rank": [0, 1, 0], "document": ["y", "w", "x"]}
    )
    both = overlap(a, b).set_index("feature")
    assert both.jaccard.to_dict() == {3: 0.25, 4: 0.0}


def test_over_a_real_model(
    tiny: Tiny, english: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The activation at a pointer, computed again from its document alone, is the one that was
    stored."""
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path))
    model, layer = tiny("llama"), 2
    torch.manual_seed(0)
    sae = SAE.from_dict(
        {
            "architecture": "topk",
            "k": 4,
            "d_in": model.spec.d_model,
            "d_sae": 30,
            "dtype": "float32",
            "device": "cpu",
        }
    )
    documents = english.split("select")[:20]
    text = read_by_both(model, model, documents, LayerPair(a=layer, b=layer))
    recorded = Recorded([text], "a")
    examples = recorded.examples(sae, "examples")
    table, histogram = examples.table(documents), examples.histogram
    assert len(table) > 100
    assert table.feature.is_monotonic_increasing
    tokens = sum(int(e.usable.sum()) for e in model.encode([d.text for d in documents]))
    assert 0 < histogram.sum() <= 4 * tokens
    assert (histogram.sum(1) > 0).nonzero()[0].tolist() == sorted(set(table.feature))
    texts = {d.id: d.text for d in documents}
    for row in table.sample(12, random_state=0).to_dict("records"):
        (e,) = model.encode([texts[row["document"]]])
        with torch.inference_mode():
            h = hooks.residuals(model, model.pad([e.ids]), [layer])[layer][0].float()
            value = float(torch.relu(sae.encode(h))[row["position"], row["feature"]])
        assert e.usable[row["position"]]
        assert value == pytest.approx(row["activation"], rel=1e-3)

    again = unpacked(recorded.places(sae, shared_places(table, table.iloc[:0]), "again"))
    tops = unpacked(table.loc[(table.group == "top") & (table["rank"] < 5)]).set_index(
        ["feature", "document"]
    )
    assert len(again) == len(tops) > 100, "the same model finds its own tops again"
    for row in again.to_dict("records"):
        top = tops.loc[(row["feature"], row["document"])]
        assert list(row["ends"]) == list(top.ends) and row["peak"] == top.peak
        assert row["heat"] == pytest.approx(top.heat, abs=0.01 * float(top.activation))
    one = documents[0]
    found = read_text(model, sae, layer, one.text)
    mine = table[table.document == one.id]
    for feature, position, activation in zip(
        mine.feature, mine.position, mine.activation, strict=True
    ):
        assert float(found.acts[found.position == position, feature]) == pytest.approx(
            activation, rel=1e-3
        )
    with pytest.raises(StitchLensError, match="a few words"):
        read_text(model, sae, layer, "")


def test_places_are_those_of_both_lists() -> None:
    """A document that is on both lists counts once, where the first has it."""
    columns: dict[str, Any] = {"group": "top", "begin": 10, "peak": 1}
    a = pd.DataFrame([{"feature": 1, "document": "x", "rank": 0} | columns])
    b = pd.DataFrame(
        [
            {"feature": 1, "document": d, "rank": r} | columns | {"peak": 2}
            for r, d in enumerate("xyz")
        ]
    )
    for table in (a, b):
        table["lengths"] = [np.array([2, 3, 4])] * len(table)
    found = shared_places(a, b, each=2)
    assert found.to_dict("list") == {
        "feature": [1, 1],
        "document": ["x", "y"],
        "at": [15, 19],
        "found": ["a", "b"],
    }
