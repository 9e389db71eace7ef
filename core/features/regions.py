"""Names for the regions of the map of features: which words their labels hold more often there than
elsewhere, beyond chance."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.features import alike, queries
from core.features import tables as feature_tables
from core.text.languages import script
from core.workspace.store import Workspace, has

CELLS = 64
"""Of the grid over the map, along its longer side."""
BLURS = (1.0, 1.5, 2.0)
"""Cells, standard deviations with which features are counted around their places: the larger, the
fewer regions."""
LEAST = 4
"""Labels of a region that hold each word of its name."""
SHARE = 0.1
"""The same as a share of the region's labels."""
ERRORS = 0.05
"""Share of false ones among names."""
WORDS = 2
"""Of a name, at most."""
MOST = 12
"""Regions that are named."""
LETTER, LINE = 7.5, 17.0
"""Pixels of a letter and of a line of a name."""

Numbers = NDArray[np.integer]
Values = NDArray[np.floating]


class Region(NamedTuple):
    """A part of the map with a name."""

    x: float
    y: float
    """Where its features lie closest, in the map's coordinates."""
    words: tuple[str, ...]
    """The surest first; a piece of text stands in quotation marks."""
    features: int
    """With a label, in the region."""
    shares: tuple[float, ...]
    """Of these features, those whose label holds each of the words."""
    overall: tuple[float, ...]
    """The same shares of all features with a label."""


def regions(
    ws: Workspace,
    sae: str,
    width: float,
) -> list[Region]:
    """The regions of an SAE's map that have a name, the surest first, none of which hides another
    on a map so many pixels wide; none where labels were not measured."""
    if not has(ws, f"labels/{sae}"):
        return []
    places = feature_tables.features(ws, sae).set_index("feature")[["x", "y"]]
    labels = alike.labels(ws, sae)
    placed = labels.loc[labels.named].join(places, on="feature")
    placed = placed.loc[np.isfinite(placed.x) & np.isfinite(placed.y)]
    low, high = places.min(), places.max()
    scale = width / max(float((high - low).max()), 1e-9)
    inside = [_inside(region, float(low.x), float(high.x), scale) for region in named(placed)]
    return apart(inside, scale)


# names


def named(labels: pd.DataFrame) -> list[Region]:
    """Names of the regions of labels that lie at `x`, `y`; the surest first. No word is used twice.
    Regions are looked for at each of BLURS.

    A word names a region whose labels hold it more often than as many labels would that are drawn
    from all of them at random: by the tail of the hypergeometric distribution, over all words and
    regions at a false discovery rate of ERRORS (Benjamini and Hochberg).
    """
    if len(labels) < LEAST:
        return []
    words = held(labels)
    overall = np.bincount(words.word, minlength=len(words.names))
    counts = counted(labels[["x", "y"]].to_numpy(np.float64), words)
    tests = int((overall >= LEAST).sum()) * counts.region.nunique()

    counts = counts.assign(
        share=counts.labels / counts.features,
        overall=overall[counts.word] / len(labels),
    )
    often = (counts.labels >= LEAST) & (counts.share >= np.maximum(SHARE, counts.overall))
    counts = counts.loc[often]
    chance = log_chance(
        counts.labels.to_numpy(),
        counts.features.to_numpy(),
        overall[counts.word],
        len(labels),
    )
    counts = counts.assign(chance=chance).sort_values("chance", kind="stable")
    limit = np.log(ERRORS * np.arange(1, len(counts) + 1) / max(1, tests))
    below = np.flatnonzero(counts.chance.to_numpy() <= limit)
    sure = counts.head(int(below[-1]) + 1 if len(below) else 0)
    return _chosen(sure, words.names)


def _chosen(
    sure: pd.DataFrame,
    names: list[str],
) -> list[Region]:
    """A region for each `region` of a table of `counted`, whose rows are the surest first."""
    rows: dict[int, list[Mapping[Hashable, Any]]] = {}
    used: set[int] = set()
    for row in sure.to_dict("records"):
        of_region = rows.setdefault(int(row["region"]), [])
        if len(of_region) < WORDS and row["word"] not in used:
            of_region.append(row)
            used.add(int(row["word"]))
    return [
        Region(
            x=float(of_region[0]["x"]),
            y=float(of_region[0]["y"]),
            words=tuple(names[row["word"]] for row in of_region),
            features=int(of_region[0]["features"]),
            shares=tuple(float(row["share"]) for row in of_region),
            overall=tuple(float(row["overall"]) for row in of_region),
        )
        for of_region in rows.values()
        if of_region
    ]


def counted(
    places: Values,
    words: "Held",
) -> pd.DataFrame:
    """At each of BLURS, a row a region and a word that its labels hold: `region`, `x`, `y`,
    `features` (labels of the region), `word`, `labels` (those that hold it)."""
    parts, regions_before = [], 0
    for blur in BLURS:
        region, peaks = basins(places, blur)
        features = np.bincount(region, minlength=len(peaks))
        both = region[words.row].astype(np.int64) * len(words.names) + words.word
        keys, labels = np.unique(both, return_counts=True)
        where, word = np.divmod(keys, max(1, len(words.names)))
        columns = {
            "region": where + regions_before,
            "x": peaks[where, 0],
            "y": peaks[where, 1],
            "features": features[where],
            "word": word,
            "labels": labels,
        }
        parts.append(pd.DataFrame(columns))
        regions_before += len(peaks)
    return pd.concat(parts, ignore_index=True)


def log_chance(
    labels: Numbers,
    drawn: Numbers,
    holding: Numbers,
    total: int,
) -> Values:
    """[n] of the chance that so many `labels` or more of those `drawn` hold a word, where `holding`
    of `total` do, an upper bound, in nats: the chance of just as many, times the sum of a geometric
    series, for with each label more the chance falls by a ratio that falls, too."""
    factorial = np.cumsum(np.log(np.maximum(np.arange(total + 1), 1)))

    def choices(of: Numbers | int, many: Numbers) -> Values:
        return factorial[of] - factorial[many] - factorial[of - many]

    rest = total - holding
    exact = choices(holding, labels) + choices(rest, drawn - labels) - choices(total, drawn)
    ratio = (holding - labels) * (drawn - labels) / ((labels + 1.0) * (rest - drawn + labels + 1.0))
    falls = ratio < 1
    series = -np.log1p(-np.where(falls, ratio, 0.0))
    return np.where(falls, np.minimum(exact + series, 0.0), 0.0)


# regions


def basins(
    places: Values,
    blur: float,
) -> tuple[Numbers, Values]:
    """([n] the region of each of `places` [n, 2], [regions, 2] where each is densest). Points are
    counted on a grid, the counts blurred, and a cell belongs to the peak that is reached by always
    going on to the densest neighbour."""
    low = places.min(axis=0)
    step = max(float((places.max(axis=0) - low).max()), 1e-9) / CELLS
    cell = np.floor((places - low) / step).astype(np.int64)
    counts = np.zeros(cell.max(axis=0) + 1)
    np.add.at(counts, (cell[:, 0], cell[:, 1]), 1.0)

    width = int(4 * blur)
    kernel = np.exp(-0.5 * (np.arange(-width, width + 1) / blur) ** 2)
    margin = width + 1  # so that each cell that is reached has eight neighbours
    density = np.pad(counts, margin)
    for _ in range(2):
        blurred = [np.convolve(line, kernel, "same") for line in density]
        density = np.stack(blurred, axis=1)

    columns = density.shape[1]
    top = _tops(density)[(cell[:, 0] + margin) * columns + cell[:, 1] + margin]
    peaks, region = np.unique(top, return_inverse=True)
    at = np.stack(np.divmod(peaks, columns), axis=1) - margin + 0.5
    return region, low + at * step


def _tops(density: Values) -> Numbers:
    """[cells] of each cell, row by row, the one that is the peak above it."""
    columns = density.shape[1]
    number = np.arange(density.size)
    inner = number.reshape(density.shape)[1:-1, 1:-1].ravel()
    offsets = [row * columns + column for row in (0, -1, 1) for column in (0, -1, 1)]
    neighbours = inner[:, None] + np.array(offsets)
    densest = density.ravel()[neighbours].argmax(axis=1)

    up = number.copy()
    up[inner] = neighbours[np.arange(len(inner)), densest]
    while not np.array_equal(up, up[up]):
        up = up[up]
    return up


def _inside(
    region: Region,
    left: float,
    right: float,
    scale: float,
) -> Region:
    """With its name moved until it lies over the map."""
    half = min(_width(region) / scale, right - left) / 2
    return region._replace(x=min(max(region.x, left + half), right - half))


def _width(region: Region) -> float:
    """Pixels of its name."""
    return max(map(len, region.words)) * LETTER


def apart(
    found: Iterable[Region],
    scale: float,
    most: int = MOST,
) -> list[Region]:
    """The first of some regions whose names do not touch, at so many pixels a unit of the map."""
    kept: list[Region] = []
    for region in found:
        if len(kept) < most and not any(_touch(region, other, scale) for other in kept):
            kept.append(region)
    return kept


def _touch(
    one: Region,
    other: Region,
    scale: float,
) -> bool:
    wide = (_width(one) + _width(other)) / 2
    high = sum(len(region.words) for region in (one, other)) / 2 * LINE
    return abs(one.x - other.x) * scale < wide and abs(one.y - other.y) * scale < high


# words


class Held(NamedTuple):
    """Which label (`row`) holds which word (a place in `names`), none twice."""

    row: Numbers
    word: Numbers
    names: list[str]


def held(labels: pd.DataFrame) -> Held:
    """The words of labels, from their families and values, see
    `core.features.labels.measure_labels`."""
    rows: list[int] = []
    words: list[str] = []
    for half in ("first", "second"):
        columns = zip(labels[f"{half}_family"], labels[f"{half}_values"], strict=True)
        for row, (family, values) in enumerate(columns):
            if family:
                of_half = said(family, tuple(values))
                rows += [row] * len(of_half)
                words += of_half

    number, names = pd.factorize(np.array(words, dtype=object))
    pairs = np.stack([np.array(rows, np.int64), number.astype(np.int64)])
    row, word = np.unique(pairs, axis=1)
    return Held(row, word, [str(name) for name in names])


AROUND = {
    "token before": "after {}",
    "token before that": "after {}",
    "word before": "after {}",
    "token after": "before {}",
}
"""Families of what stands beside a token."""
PIECES = {
    "token": "“{}”",
    "word piece": "“{}”",
    "word so far": "“{}”",
    "beginning of": "“{}…”",
    "end of": "“…{}”",
    "last three letters": "“…{}”",
}
"""How pieces of text are quoted, by what their family begins with."""
UNSAID = ("letters of the word", "seen", "place in the line", "place in the sentence")
"""Families whose values say too little."""


@lru_cache(maxsize=100_000)
def said(
    family: str,
    values: tuple[str, ...],
) -> tuple[str, ...]:
    """What a predicate says, a word or two each: every value; and where they are pieces of text,
    what half of them are."""
    if family in UNSAID:
        return ()
    if family == "script":
        return tuple(f"{value} letters" for value in values)
    quoted = next((form for start, form in PIECES.items() if family.startswith(start)), None)
    if quoted is None:
        return values

    pieces = [quoted.format(value.strip()) for value in values if value.strip()]
    form = AROUND.get(family, "{}")
    words = [*pieces, *common(values, family == "token")]
    return tuple(form.format(word) for word in dict.fromkeys(words))


def common(
    values: Sequence[str],
    whole: bool,
) -> list[str]:
    """What half of some pieces of text are, or more; of `whole` tokens also where in a word."""
    counts: dict[str, int] = {}
    for value in values:
        for kind in kinds_of(value, whole):
            counts[kind] = counts.get(kind, 0) + 1
    return [kind for kind, count in counts.items() if 2 * count >= len(values)]


LOOKS: dict[str, Callable[[str], bool]] = {
    "numbers": str.isdigit,
    "signs": lambda word: not any(map(str.isalnum, word)),
    "single letters": lambda word: len(word) == 1 and word.isalpha(),
    "capital letters": lambda word: word.isupper(),
    "capitalised words": lambda word: len(word) > 1 and word.istitle(),
    "accented letters": lambda word: any(not c.isascii() and script(c) == "Latin" for c in word),
}


@lru_cache(maxsize=100_000)
def kinds_of(
    value: str,
    whole: bool,
) -> tuple[str, ...]:
    """What a piece of text is: as it looks, as a search would call it, by its script where that is
    not Latin, and of a `whole` token, where in a word it stands."""
    word = value.strip()
    if not word:
        return ("line breaks" if "\n" in value else "spaces",)

    kinds = [kind for kind, is_one in LOOKS.items() if is_one(word)]
    terms = queries.normalised(word)
    kinds += [kind for kind, tokens in concepts().items() if terms in tokens]
    letters = next((script(letter) for letter in word if letter.isalpha()), "")
    if letters not in ("", "Latin"):
        kinds.append("Chinese signs" if letters == "Cjk" else f"{letters} letters")
    elif whole and word.isalpha():
        kinds.append("beginnings of words" if value.startswith(" ") else "pieces of words")
    return tuple(kinds)


@lru_cache(maxsize=1)
def concepts() -> dict[str, frozenset[str]]:
    """Kinds of words that a search knows, with their tokens; signs look like themselves."""
    kinds = queries.concepts().items()
    return {
        f"{kind}s": frozenset(tokens)
        for kind, tokens in kinds
        if len(tokens) > 3 and all(map(str.isalpha, tokens))
    }
