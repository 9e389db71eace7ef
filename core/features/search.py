"""Ask for a feature: by a word, by a sentence that both models have read, or by a direction.

Words are looked up in labels, in explanations by others, in the tokens at which features peak, and
in the contexts around them (SQLite's FTS5), as `core.features.queries` reads what is typed.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from core.errors import StitchLensError
from core.features import alike, explained, queries
from core.features import tables as feature_tables
from core.workspace.disk import beside, fingerprint
from core.workspace.places import user_cache
from core.workspace.store import Workspace, has

MOST = 20
"""Results."""
WEIGHTS = (0.0, 10.0, 8.0, 6.0, 1.0)
"""Of the columns in a search: feature, label, explanations, peaks, contexts."""
FORMAT = "3"
"""Of the index; another one makes it anew."""
TABLE = """CREATE VIRTUAL TABLE features USING fts5(feature UNINDEXED, label, explanations,
peaks, contexts, tokenize = "unicode61 remove_diacritics 0 categories 'L* M* N* P* S* Co'")"""
FIND = f"""SELECT feature, label FROM features
WHERE features MATCH ? ORDER BY bm25(features, {", ".join(map(str, WEIGHTS))}), feature LIMIT ?"""

Where = Literal["a", "b", "both"]
"""In which model a sentence has to move a feature."""


class Entry(NamedTuple):
    """What is known of a feature in words."""

    feature: int
    label: str
    explanations: str
    peaks: str
    contexts: str


def write_index(
    path: Path,
    entries: Sequence[Entry],
) -> None:
    """An index of features, in a file that is not there yet."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(TABLE)
        rows = ((feature, *map(queries.normalised, words)) for feature, *words in entries)
        database.executemany("INSERT INTO features VALUES (?, ?, ?, ?, ?)", rows)


def look_up(
    path: Path,
    query: str,
    most: int = MOST,
) -> dict[int, queries.Place]:
    """The features that a query finds in an index and where, the best first: those whose label
    has it, the narrowest label before the others, those of which others say it, those that fire on
    it, those that fire near it."""
    found: dict[int, queries.Place] = {}
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        for place, expression in queries.expressions(query):
            named = place == "label"
            # Which label is narrowest is known of all of them only; elsewhere a few do.
            rows = database.execute(FIND, (expression, -1 if named else most)).fetchall()
            if named:
                rows.sort(key=lambda row: -queries.share_of_label(row[1], query))
            for feature, _ in rows[:most]:
                found.setdefault(int(feature), place)
            if len(found) >= most:
                break
    return dict(list(found.items())[:most])


def _contexts(
    ws: Workspace,
    sae: str,
    texts: dict[str, str],
) -> Iterator[tuple[int, str, str]]:
    """(feature, token at its peak, text around it) of the top contexts on both sides."""
    for side in ("a", "b"):
        columns = ["feature", "document", "begin", "lengths", "peak"]
        table = ws.table(f"examples_{side}/{sae}", columns, group="top")
        rows = zip(*(table[column] for column in columns), strict=True)
        for feature, document, begin, lengths, peak in rows:
            if not len(lengths):  # a pointer alone, see `core.features.examples.lean`
                continue
            text = texts.get(document, "")
            ends = int(begin) + np.cumsum([0, *lengths])
            yield int(feature), text[ends[peak] : ends[peak + 1]], text[ends[0] : ends[-1]]


def entries_of(
    ws: Workspace,
    sae: str,
    texts: dict[str, str],
) -> list[Entry]:
    """What is known in words of each feature of an SAE; `texts` are the corpus's, by id."""
    features = ws.table(f"features/{sae}").feature.tolist()
    labels = dict.fromkeys(features, "")
    if has(ws, f"labels/{sae}"):
        table = alike.labels(ws, sae)
        shown = table.shown.where(table.named, "")
        labels |= dict(zip(table.feature.tolist(), shown, strict=True))

    told = explained.of_sae(ws, sae).groupby("feature").text.agg(" ".join).to_dict()
    peaks: dict[int, dict[str, None]] = {feature: {} for feature in features}
    contexts: dict[int, dict[str, None]] = {feature: {} for feature in features}
    for feature, peak, context in _contexts(ws, sae, texts):
        peaks[feature][peak] = None
        contexts[feature][context] = None
    return [
        Entry(
            f,
            labels[f],
            told.get(f, ""),
            " ".join(peaks[f]),
            " ".join(contexts[f]),
        )
        for f in features
    ]


def index_of(
    ws: Workspace,
    sae: str,
    corpus: str,
) -> Path:
    """The index of an SAE's features, made once and kept in the user's cache."""
    groups = ("features", "labels", explained.GROUP, "examples_a", "examples_b")
    names = [f"{group}/{sae}" for group in groups]
    known = ws.manifest().artifacts
    parts = [known[name].sha256 for name in names if name in known]
    path = user_cache() / "search" / f"{fingerprint([FORMAT, corpus, *parts])}.sqlite"
    if not path.exists():
        entries = entries_of(ws, sae, feature_tables.texts(corpus))
        with beside(path) as part:
            write_index(part, entries)
    return path


def in_words(
    ws: Workspace,
    sae: str,
    query: str,
    corpus: str,
    most: int = MOST,
) -> dict[int, queries.Place]:
    """Features whose label, explanations, peaks or contexts hold a word and where, the best
    first."""
    queries.expressions(query)  # a query that is too long is refused before anything is read
    return look_up(index_of(ws, sae, corpus), query, most)


class Moved(NamedTuple):
    """A feature that a sentence moves: its largest activation in A and in B as shares of its
    maximum, and its `score`."""

    feature: int
    score: float
    share_a: float
    share_b: float


def by_sentence(
    peaks: dict[str, Float[np.ndarray, " f"]],
    table: pd.DataFrame,
    where: Where = "both",
    most: int = MOST,
) -> list[Moved]:
    """The features that a sentence moves most. `peaks` are the largest activations in the sentence
    in A ('a') and in B ('b'); `table` has `max_a`, `max_b`, `density_a`, `density_b`.

    A feature scores in a model its activation as a share of its maximum, times the bits that its
    firing tells, -log2 of its density; in both models the smaller of the two.
    """
    shares: dict[str, NDArray[np.float64]] = {}
    scores: dict[str, NDArray[np.float64]] = {}
    for side in ("a", "b"):
        largest = table[f"max_{side}"].to_numpy(float)
        shares[side] = peaks[side] / np.maximum(np.maximum(largest, peaks[side]), 1e-12)
        density = table[f"density_{side}"].to_numpy(float)
        bits = -np.log2(np.clip(density, 1e-6, 1))
        scores[side] = shares[side] * bits

    score = np.minimum(scores["a"], scores["b"]) if where == "both" else scores[where]
    order = np.argsort(-score, kind="stable")[:most]
    rows = [(int(f), *(float(x[f]) for x in (score, shares["a"], shares["b"]))) for f in order]
    return [Moved(*row) for row in rows if row[1] > 0]


def nearest(
    decoder: Float[np.ndarray, "f d"],
    vector: Float[np.ndarray, " d"],
    most: int = MOST,
) -> list[tuple[int, float]]:
    """(feature, cosine) of the decoder rows nearest to a vector, the nearest first. Raises
    StitchLensError for a vector without a direction."""
    length = float(np.linalg.norm(vector))
    if not np.isfinite(length) or length == 0:
        raise StitchLensError(
            "a vector of zeros",
            "a direction",
            "use another vector",
        )
    norms = np.maximum(np.linalg.norm(decoder, axis=1), 1e-12)
    cosine = decoder @ vector / norms / length
    order = np.argsort(-cosine, kind="stable")[:most]
    return [(int(f), float(cosine[f])) for f in order]


KEYS = ("label", "label_f1_a", "label_f1_b", "agreement", "correlation", "twin", "twin_r")
"""Of a result, beside its feature."""


def measures(ws: Workspace, sae: str) -> dict[str, pd.Series]:
    """Those of KEYS that were measured, of every feature, indexed by it."""
    table = ws.table(f"features/{sae}").set_index("feature")
    columns: dict[str, pd.Series] = {"correlation": table.correlation}
    if has(ws, f"labels/{sae}"):
        labels = alike.labels(ws, sae).set_index("feature")
        columns |= {
            "label": labels.shown,
            "label_f1_a": labels.f1_a,
            "label_f1_b": labels.f1_b,
        }
    if has(ws, f"agreement/{sae}"):
        columns["agreement"] = alike.agreement(ws, sae).set_index("feature").agreement
    if has(ws, f"twins/{sae}"):
        twins = alike.twins(ws, sae).set_index("feature")
        columns |= {"twin": twins.twin.where(twins.twin >= 0), "twin_r": twins.r}
    return columns


def results(
    ws: Workspace,
    sae: str,
    features: Sequence[int],
) -> list[dict[str, Any]]:
    """Of each feature `feature`, `label`, `label_f1_a`, `label_f1_b`, `agreement`, `correlation`
    (Eq. 10), `twin` and `twin_r`; None for what was not measured or is not defined."""
    columns = measures(ws, sae)
    rows = []
    for feature in features:
        row: dict[str, Any] = {"feature": feature}
        for key in KEYS:
            value = columns[key][feature] if key in columns else None
            row[key] = _plain(value)
        row["twin"] = None if row["twin"] is None else int(row["twin"])
        rows.append(row)
    return rows


def _plain(value: Any) -> Any:
    """A value of a table as JSON has it."""
    if value is None or value != value:
        return None
    return value if isinstance(value, str) else float(value)


def unknown(
    ws: Workspace,
    sae: str,
    query: str,
    corpus: str,
) -> str:
    """Why nothing was found, in a sentence."""
    width = len(ws.table(f"features/{sae}"))
    if not queries.normalised(query):
        return "Nothing to look for: type a word, or a sign."
    wanted = f" {queries.normalised(query)} "
    texts = feature_tables.texts(corpus).values()
    times = sum(f" {queries.normalised(text)} ".count(wanted) for text in texts)
    small = f"The SAE has {width:,} features, too few for one of its own."
    if not times:
        return f"No feature has it, and neither has the corpus: nothing was measured there. {small}"
    count = "once" if times == 1 else f"{times:,} times"
    return f"No feature has it in its label, peaks or top contexts; the corpus, {count}. {small}"


def as_text(record: Mapping[str, Any]) -> str:
    """What was found, in lines for a terminal."""
    if not record["results"]:
        return str(record["empty"])
    lines = [record["caution"]] if record.get("caution") else []
    for row in record["results"]:
        label = row["label"] or alike.UNNAMED
        numbers = (row["label_f1_a"], row["label_f1_b"], row["agreement"])
        a, b, agreement = ("  - " if x is None else f"{x:.2f}" for x in numbers)
        twin = "-" if row["twin"] is None else f"{row['twin']} ({row['twin_r']:.2f})"
        more = [f"{key} {row[key]:.2f}" for key in ("score", "cosine") if key in row]
        more += [queries.FITS[row["found_in"]]] if "found_in" in row else []
        extra = "".join(f"  {one}" for one in more)
        lines.append(
            f"{row['feature']:>6}  {a} → {b}  agreement {agreement}  twin {twin}{extra}  {label}"
        )
    return "\n".join(lines)
