"""Features that are worth trying to steer by, from the tables alone: those that cross, that are
active now and then, and whose contexts in both models turn on the same words."""

from collections import Counter, defaultdict
from collections.abc import Mapping

import pandas as pd

from core.features import tables as feature_tables
from core.workspace.store import Workspace

DENSITY = (2e-4, 0.03)
"""Share of tokens at which a feature is active, in either model: a rarer one has few contexts, a
commoner one says little."""
CONTEXTS = 10
"""Top contexts of either side whose strongest words are compared."""
LETTERS = 3
"""Of a word, at least."""


def candidates(
    ws: Workspace,
    sae: str,
    texts: Mapping[str, str],
    most: int,
) -> pd.DataFrame:
    """The `most` features that are likeliest to show: `feature`, `correlation` (Eq. 10), `agree`
    (of CONTEXTS, those in which both models are most active at the same whole words), `words`
    (these, the commonest first), `prior` (the product, by which they are ordered).

    Left out are features that are not reliable, that keep firing whatever the words are
    (structural), or whose density is not in DENSITY. `texts` are the corpus's by document."""
    table = feature_tables.features(ws, sae)
    kind = feature_tables.kinds_of_features(table)
    dense = table[["density_a", "density_b"]]
    sane = dense.ge(DENSITY[0]).all(axis=1) & dense.le(DENSITY[1]).all(axis=1)
    table = table.loc[table.reliable & sane & ~kind.isin(("structural", "dead"))]

    peaks = {side: strongest_words(ws, sae, side, texts) for side in ("a", "b")}
    rows = []
    for feature, correlation in zip(table.feature, table.correlation, strict=True):
        shared = peaks["a"].get(feature, Counter()) & peaks["b"].get(feature, Counter())
        agree = shared.total()
        words = [word for word, _ in shared.most_common()]
        rows.append((int(feature), float(correlation), agree, words))

    found = pd.DataFrame(rows, columns=["feature", "correlation", "agree", "words"])
    found["prior"] = found.correlation * found.agree / CONTEXTS
    best = found.sort_values(["prior", "feature"], ascending=[False, True], kind="stable")
    return best.loc[best.agree > 0].head(most).reset_index(drop=True)


def strongest_words(
    ws: Workspace,
    sae: str,
    side: str,
    texts: Mapping[str, str],
) -> dict[int, Counter[str]]:
    """By feature, the words at which it is most active in its top contexts, in lower case; a token
    that is part of a longer word counts for nothing."""
    table = ws.table(f"examples_{side}/{sae}")
    top = table.loc[(table.group == "top") & (table["rank"] < CONTEXTS)]
    words: dict[int, Counter[str]] = defaultdict(Counter)
    for row in top.to_dict("records"):
        lengths, peak = row["lengths"], row["peak"]
        before = int(sum(lengths[:peak]))
        begin = int(row["begin"]) + before
        end = begin + int(lengths[peak])
        word = whole_word(texts.get(row["document"], ""), begin, end)
        if word is not None:
            words[int(row["feature"])][word] += 1
    return words


def whole_word(
    text: str,
    begin: int,
    end: int,
) -> str | None:
    """What stands between two characters, where it is a whole word of LETTERS or more."""
    token = text[begin:end]
    word = token.strip()
    if len(word) < LETTERS or not word.isalpha():
        return None

    before = text[begin - 1 : begin] if token[:1] == word[:1] else ""
    after = text[end : end + 1] if token[-1:] == word[-1:] else ""
    if before.isalpha() or after.isalpha():
        return None
    return word.lower()
