"""Agreement, labels and native twins as tidy tables, and what `report --json` says of them."""

from typing import Any

import numpy as np
import pandas as pd

from core.features import tables as feature_tables
from core.stitches.tables import _need
from core.workspace.store import Workspace, has

WHOLE = "all text"
"""The kind that stands for every position."""
LEAST = 20
"""Firings below which a feature is not counted in a share."""
ALIKE = 0.6
"""Correlation from which two features are one."""
BAR = 0.5
"""F1 on held-out text below which a label is no label."""
STEPS = tuple(round(0.1 * k, 1) for k in range(1, 10))
"""Of r, along which shares of twins are told."""
UNNAMED = "no label"


def agreement(
    ws: Workspace,
    sae: str,
    kind: str = WHOLE,
) -> pd.DataFrame:
    """Of one kind of text, those furthest above their control first, those that fire too rarely
    last; see `core.features.agreement.measure_agreement`."""
    table = ws.table(f"agreement/{sae}", kind=kind)
    columns = ("feature", "agreement", "firings_a", "firings_b", "above", "random", "shuffled")
    _need(table.columns, columns, f"table 'agreement/{sae}'")
    order = table.sort_values(
        "above",
        ascending=False,
        kind="stable",
        na_position="last",
    )
    return order.reset_index(drop=True)


def labels(
    ws: Workspace,
    sae: str,
) -> pd.DataFrame:
    """A row a feature, see `core.features.labels.measure_labels`; and `named`, whether its label
    tells its strong firings in held-out text of A at an F1 of BAR or more, and `shown`, the label,
    or UNNAMED."""
    table = ws.table(f"labels/{sae}")
    columns = ("feature", "label", "f1_a", "f1_b", "all_a", "all_b", "random", "shuffled")
    _need(table.columns, columns, f"table 'labels/{sae}'")
    named = table.f1_a.ge(BAR)
    return table.assign(named=named, shown=table.label.where(named, UNNAMED))


def twins(
    ws: Workspace,
    sae: str,
    side: str = "a",
    kind: str = WHOLE,
) -> pd.DataFrame:
    """The twins of one model's features in one kind of text, see
    `core.features.twins.measure_twins`."""
    table = ws.table(f"twins/{sae}", side=side, kind=kind)
    columns = ("feature", "twin", "r", "mutual", "assigned", "assigned_r", "cosine")
    _need(table.columns, columns, f"table 'twins/{sae}'")
    return table


def listing(
    ws: Workspace,
    sae: str,
) -> pd.DataFrame:
    """What a person sees of each feature, a row a feature in the order of their numbers: the
    columns of `core.features.tables.features`; `label` (as shown), `named`, `f1_a`, `f1_b`;
    `agreement`, `above` (its control), `fires_a` and `fires_b`, the shares of its firings in A and
    in B at which it fires in the other model too; `twin`, `twin_r`, `twin_cosine`. NaN, and a twin
    of -1, where something was not measured."""
    table = feature_tables.features(ws, sae)
    blank = dict.fromkeys(UNMEASURED, float("nan"))
    table = table.assign(**blank, label=UNNAMED, named=False, twin=-1)

    known: dict[str, pd.DataFrame] = {}
    if has(ws, f"labels/{sae}"):
        of_labels = labels(ws, sae).drop(columns="label")
        known["labels"] = of_labels.rename(columns={"shown": "label"})
    if has(ws, f"agreement/{sae}"):
        renamed = {"recall": "fires_a", "precision": "fires_b"}
        known["agreement"] = agreement(ws, sae).rename(columns=renamed)
    if has(ws, f"twins/{sae}"):
        renamed = {"r": "twin_r", "cosine": "twin_cosine"}
        known["twins"] = twins(ws, sae).rename(columns=renamed)

    for group, columns in SHOWN.items():
        if group in known:
            own = known[group].set_index("feature")
            for column in columns:
                table[column] = own[column].reindex(table.feature).to_numpy()
    return table


SHOWN = {
    "labels": ("label", "named", "f1_a", "f1_b"),
    "agreement": ("agreement", "above", "fires_a", "fires_b"),
    "twins": ("twin", "twin_r", "twin_cosine"),
}
"""What a listing has of each table."""
UNMEASURED = (
    "f1_a",
    "f1_b",
    "agreement",
    "above",
    "fires_a",
    "fires_b",
    "twin_r",
    "twin_cosine",
)
"""Columns of numbers that an older workspace does not have."""


def usual_order(table: pd.DataFrame) -> pd.Series:
    """The numbers of a listing's features as they are shown where nothing was asked for: those
    furthest above their control in agreement first; where that was not measured, those whose
    attribution correlates best."""
    key = table.above if table.above.notna().any() else table.correlation.where(table.reliable)
    order = key.sort_values(
        ascending=False,
        kind="stable",
        na_position="last",
    )
    return table.feature.loc[order.index]


def usual(
    ws: Workspace,
    sae: str,
) -> list[int]:
    """All features of an SAE in the `usual_order`."""
    return usual_order(listing(ws, sae)).tolist()


EXAMPLES = 12
KIND = r"^in (code\b|[A-Z]\w+)"
WORD = r'^(?:the word "|" |"(?=.* in any case))([^\W\d_]{4,})"'
"""What a label begins with: code or a language; a word, whole."""


def worth_asking(
    table: pd.DataFrame,
    most: int = EXAMPLES,
) -> pd.DataFrame:
    """Of a listing, features that show what can be asked for: rare ones whose label, which begins
    with a `word`, tells them well in B too and that agree; no two of a word. Words that are said
    more often than most features fire (this, with, they) are no examples."""
    bits = -np.log2(table.density_a.clip(lower=1e-6))
    score = table.f1_b * table.agreement * bits
    kind = table.label.str.extract(KIND, expand=False)
    rare = table.density_a <= table.density_a.median()
    word = kind.fillna(table.label.str.extract(WORD, expand=False).where(rare))
    best = table.assign(score=score, word=word)
    best = best.loc[table.named & score.notna() & word.notna()]
    best = best.sort_values("score", ascending=False, kind="stable")
    return best[~best.word.str.casefold().duplicated()].head(most)


def examples(
    ws: Workspace,
    sae: str,
) -> pd.DataFrame:
    """`word` and `feature` of what is `worth_asking` for among an SAE's features."""
    best = worth_asking(listing(ws, sae))
    return best.loc[:, ["word", "feature"]].reset_index(drop=True)


def _share(
    values: pd.Series,
    least: float,
) -> float:
    return float(values.ge(least).mean()) if len(values) else float("nan")


def _spread(values: pd.Series) -> dict[str, Any]:
    """Of correlations: how many, the median, the share at ALIKE or more."""
    known = values.dropna()
    median = float(known.median()) if len(known) else None
    share = _share(known, ALIKE) if len(known) else None
    return {
        "n": len(known),
        "median": median,
        "share_alike": share,
    }


def agreement_report(
    ws: Workspace,
    sae: str,
) -> dict[str, Any]:
    """By kind of text: `positions` that crossed; of `carried` features that fire LEAST times or
    more in both models, of a `random` SAE's, and through a `shuffled` stitch, the median agreement
    and the share at ALIKE or more; the median `precision`, `recall`, `f1` of a firing in B as a
    guess at one in A, and `above` control."""
    out: dict[str, Any] = {}
    for kind, part in ws.table(f"agreement/{sae}").groupby("kind", sort=False):
        often = part.loc[(part.firings_a >= LEAST) & (part.firings_b >= LEAST)]
        random = part.random[part.random_firings >= LEAST]
        record: dict[str, Any] = {
            "positions": int(part.positions.iloc[0]),
            "carried": _spread(often.agreement),
            "random": _spread(random),
            "shuffled": _spread(often.shuffled),
        }
        for column in ("precision", "recall", "f1", "above"):
            record[column] = _median(often[column])
        out[str(kind)] = record
    return out


def _median(values: pd.Series) -> float | None:
    known = values.dropna()
    return float(known.median()) if len(known) else None


def labels_report(
    ws: Workspace,
    sae: str,
) -> dict[str, Any]:
    """Of the features that fire strongly LEAST times or more in held-out text of A: how many (`n`),
    the share with a label of F1 BAR or more on strong firings in A and in B and on all firings
    (`all_a`, `all_b`), medians, what labels keep in B (`kept`, the median of F1 in B over A among
    named ones); the same share of a `random` SAE and of `shuffled` labels."""
    table = labels(ws, sae)
    often = table.loc[table.firings_a >= LEAST]
    named = often.loc[often.named]
    random = table.loc[table.random_firings >= LEAST]
    columns = ("f1_a", "f1_b", "all_a", "all_b")
    return {
        "bar": BAR,
        "n": len(often),
        "share": {column: _share(often[column].dropna(), BAR) for column in columns},
        "median": {column: _median(often[column]) for column in columns},
        "kept": _median(named.f1_b / named.f1_a),
        "random": {"n": len(random), "share": _share(random.random, BAR)},
        "random_all": {"n": len(random), "share": _share(random.random_all, BAR)},
        "shuffled": {"share": _share(often.shuffled.dropna(), BAR)},
    }


def twins_report(
    ws: Workspace,
    sae: str,
) -> dict[str, Any]:
    """By kind of text, of features that fire LEAST times or more: `n_a`, `n_b`; `shared` pairs of
    the one-to-one assignment at r of ALIKE or more, and how many features are `only_a`, `only_b`;
    `mutual` best pairs at ALIKE; for each side the share with a twin at each r of STEPS, beside
    `random` SAEs and `shuffled` positions; and the median `cosine` of twins at ALIKE and below."""
    out: dict[str, Any] = {}
    table = ws.table(f"twins/{sae}")
    often = table.loc[table.firings >= LEAST]
    for kind, part in often.groupby("kind", sort=False):
        a, b = (part.loc[part.side == side] for side in ("a", "b"))
        shared = int((a.assigned_r >= ALIKE).sum())
        near = a.r >= ALIKE
        record: dict[str, Any] = {
            "positions": int(part.positions.iloc[0]),
            "n_a": len(a),
            "n_b": len(b),
            "shared": shared,
            "only_a": len(a) - shared,
            "only_b": len(b) - int((b.assigned_r >= ALIKE).sum()),
            "mutual": int((near & a.mutual).sum()),
            "cosine_alike": _median(a.cosine[near]),
            "cosine_below": _median(a.cosine[~near]),
        }
        for side, rows in (("a", a), ("b", b)):
            record[f"share_{side}"] = {str(r): _share(rows.r, r) for r in STEPS}
        for control in ("random", "shuffled"):
            record[control] = {str(r): _share(a[control], r) for r in STEPS}
        out[str(kind)] = record
    return out


def report(
    ws: Workspace,
    sae: str,
) -> dict[str, Any]:
    """`agreement`, `labels` and `twins` of an SAE, those that were measured."""
    parts = {
        "agreement": agreement_report,
        "labels": labels_report,
        "twins": twins_report,
    }
    return {name: of(ws, sae) for name, of in parts.items() if has(ws, f"{name}/{sae}")}


def as_text(
    ws: Workspace,
    sae: str,
) -> str:
    """What `report` says, in lines for a terminal."""
    record = report(ws, sae)
    lines = []
    for kind, one in record.get("agreement", {}).items():
        carried, random = one["carried"], one["random"]
        lines.append(
            f"agreement, {kind} ({one['positions']:,} positions):"
            f" median {_two(carried['median'])}, {_percent(carried['share_alike'])} at {ALIKE} or"
            f" more (random SAE {_two(random['median'])}, {_percent(random['share_alike'])})"
        )
    if "labels" in record:
        one = record["labels"]
        share = one["share"]
        lines.append(
            f"labels: {_percent(share['f1_a'])} of {one['n']:,} features have one of F1 {BAR} or"
            f" more in A, {_percent(share['f1_b'])} in B, on all firings"
            f" {_percent(share['all_a'])} and {_percent(share['all_b'])}"
            f" (random SAE {_percent(one['random']['share'])})"
        )
    for kind, one in record.get("twins", {}).items():
        lines.append(
            f"twins, {kind}: {one['shared']:,} shared at r of {ALIKE} or more,"
            f" {one['only_a']:,} only in A, {one['only_b']:,} only in B"
            f" (random SAEs {_percent(one['random'][str(ALIKE)])})"
        )
    return "\n".join(lines)


def _two(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "none" if value is None or np.isnan(value) else f"{100 * value:.0f} %"
