"""Which features a search tries and prefers, on planted tables."""

from typing import Any

import pandas as pd
import pytest

from core.steering.candidates import whole_word
from core.steering.search import said
from core.steering.tables import best_features

TEXT = "In a house, rehoused; the houses of Nonsense."


@pytest.mark.parametrize(
    ("token", "word"),
    [(" house", "house"), ("house", None), (" Non", None), (" the", "the"), (" a", None)],
)
def test_a_part_of_a_longer_word_is_no_word(token: str, word: str | None) -> None:
    text = TEXT if token != "house" else TEXT[12:]
    begin = text.index(token)
    assert whole_word(text, begin, begin + len(token)) == word


def test_words_are_counted_without_what_stands_around_them() -> None:
    assert said('God is good, "god"!', ["god"]) == 0.5
    assert said("", ["god"]) == said("Goddess", ["god"]) == 0


def text(feature: int, side: str, lane: str, strength: float, **shown: Any) -> dict[str, Any]:
    usual = {"active": 0.0, "said": 0.0, "fluent": True, "prompt": 0}
    cell = {"feature": feature, "side": side, "lane": lane, "strength": strength}
    return cell | usual | shown


def planted() -> pd.DataFrame:
    """1 shows in both models at strength 2, 2 in one alone, 3 no more than at random, 4 in texts
    that are not fluent."""
    rows = []
    for feature in (1, 2, 3, 4):
        for side in ("a", "b"):
            rows.append(text(feature, side, "plain", 0.0, active=0.05))
            for strength in (1.0, 2.0):
                drawn = 0.6 if feature == 3 else 0.1
                active = 0.1 + 0.25 * strength
                if feature == 2 and side == "a":
                    active = 0.05
                fluent = feature != 4
                rows.append(text(feature, side, "random", strength, active=drawn))
                rows.append(text(feature, side, "steered", strength, active=active, fluent=fluent))
    return pd.DataFrame(rows)


def test_a_feature_must_show_in_both_models_fluently_and_more_than_at_random() -> None:
    best = best_features(planted())
    assert best.feature.to_list() == [1]
    (row,) = best.to_dict("records")
    assert row["strength"] == 2.0 and row["gain"] == pytest.approx(0.5)
    assert row["a_active"] == pytest.approx(0.6) and row["b_random"] == pytest.approx(0.1)
    assert best_features(planted().assign(active=0.0)).empty
