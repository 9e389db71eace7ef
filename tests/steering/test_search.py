"""Which features a search looks at and prefers, on planted tables."""

import pandas as pd
import pytest

from core.steering.curated import ranked, short
from core.steering.search import strongest
from core.steering.signs import Signs, form
from tests.helpers.searched import searched, text


def test_words_are_counted_without_what_stands_around_them() -> None:
    signs = Signs(words=frozenset({"god"}))
    assert signs.shown("God is good", ["God", " is", " g", "ood"]) == 0.25
    assert signs.shown("", []) == 0
    assert Signs().shown("God", ["God"]) == 0


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (" été", ""),
        ("при", "cyrillic"),
        ("を", "hiragana"),
        (" 19", "number"),
        ("\r\n\r", "line break"),
        (" ():", "code"),
        (" ", ""),
    ],
)
def test_a_token_has_the_form_of_most_of_its_characters(text: str, wanted: str) -> None:
    assert form(text) == wanted


def test_a_text_in_the_language_shows_all_of_it() -> None:
    signs = Signs(languages=frozenset({"fr"}))
    assert signs.shown("Le chat dort sur la chaise de la cuisine depuis ce matin.", []) == 1
    assert signs.shown("The cat has been sleeping on the kitchen chair all day.", []) == 0


def test_what_shows_most_counts() -> None:
    signs = Signs(words=frozenset({"x"}), forms=frozenset({"number"}))
    assert signs.shown("x 12", ["x", " 12"]) == pytest.approx(2 / 3)


def test_a_feature_must_show_where_it_was_carried_fluently_and_more_than_at_random() -> None:
    best = ranked(searched()).set_index("feature")
    assert best.index[best.passes].to_list() == [1, 6]
    row = best.loc[1]
    assert row.strength == 2.0 and row.gain == pytest.approx(0.475)
    assert 0 < row.low < row.gain < row.high
    assert row.a_shown == pytest.approx(0.525) and row.b_random == pytest.approx(0.05)

    assert best.loc[6].a_shown == pytest.approx(0.05) and best.loc[2].gain == pytest.approx(0)
    assert best.loc[4].fluent == 0 and best.loc[4].gain < 0
    assert best.loc[5].low <= 0 < best.loc[5].gain
    assert not ranked(searched().assign(shown=0.0)).passes.any()


def test_a_search_that_was_not_made_ranks_nothing() -> None:
    assert ranked(searched().head(0)).empty


def test_the_first_stage_takes_the_strength_at_which_the_steered_model_shows_most() -> None:
    rows = []
    for side, (weak, strong) in (("a", (0.3, 0.9)), ("b", (0.4, 0.2))):
        rows += [
            text(7, side, "plain", 0.0, shown=0.1),
            text(7, side, "steered", 1.0, shown=weak),
            text(7, side, "steered", 2.0, shown=strong),
            text(8, side, "plain", 0.0, shown=0.1),
            text(8, side, "steered", 1.0, shown=0.2),
            text(8, side, "steered", 2.0, shown=0.9, fluent=False),
        ]
    tried = pd.DataFrame(rows)
    assert strongest(tried, 2) == {7: 1.0, 8: 1.0}
    assert strongest(tried, 1) == {7: 1.0}


def test_a_label_is_cut_for_a_button() -> None:
    assert short("in Danish or Swedish or Norwegian") == "in Danish or Swedish …"
    assert short("in French · a whole word or end of a word") == "in French"
    assert short('" the" " land" " its"') == '" the" " land" …'
