"""The feature explorer's artifacts as tidy tables."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from core.features import explained
from core.statistics import effect
from core.stitches.tables import _need
from core.workspace.store import Workspace, has, makers


def texts(corpus: str) -> dict[str, str]:
    """The documents of a corpus by id: what example pointers point at."""
    from core.text.corpus import load_corpus

    return {d.id: d.text for d in load_corpus(corpus).documents}


def saes(ws: Workspace) -> list[str]:
    """The SAEs of A whose features were measured, by name."""
    return [n.removeprefix("features/") for n in ws.names(prefix="features/")]


def trained_on(ws: Workspace, sae: str) -> str:
    """An SAE that was trained here, in words: features, layer, text. Empty for others."""
    about = ws.entry(f"saes/{sae}").makers
    if "width" not in about:
        return ""
    text = " and ".join(about.get("kinds", ())) or "all text"
    return f"{about['width']:,} features before layer {about['layer_a']}, {text}"


def features(ws: Workspace, sae: str) -> pd.DataFrame:
    """One row a feature of an SAE: Eq. 10 before and after transfer with its interval and controls,
    densities, activity in rewritten sentences, overlap of the top examples, place on the map, and
    the tokens it raises most in A (see `core.features.measure`)."""
    table = ws.table(f"features/{sae}")
    columns = (
        "feature",
        "correlation",
        "low",
        "high",
        "joint",
        "density_a",
        "density_b",
        "random",
        "shuffled",
        "consistency",
        "sentences",
        "reliable",
        "raises",
    )
    _need(table.columns, columns, f"table 'features/{sae}'")
    return table


def kinds_of_features(
    table: pd.DataFrame,
    threshold: float = 0.5,
    least: int = 3,
) -> pd.Series:
    """Of `features`: 'dead' where never active in A; 'unseen' where active in fewer than `least` of
    the rewritten sentences; 'structural' where it stays active in all versions of a share
    `threshold` of them or more; 'semantic'."""
    kind = table.consistency.ge(threshold).map({True: "structural", False: "semantic"})
    kind = kind.mask(~table.sentences.ge(least), "unseen")
    return kind.mask(table.density_a == 0, "dead").rename("kind")


def feature_examples(
    ws: Workspace,
    sae: str,
    side: str,
    feature: int,
) -> pd.DataFrame:
    """The contexts of one feature in A ('a') or, transferred, in B ('b'), those that can be shown:
    see `core.features.examples.Examples.table` and `unpacked`."""
    table = ws.table(f"examples_{side}/{sae}", feature=feature)
    return unpacked(table.loc[table.heat.str.len() > 0].reset_index(drop=True))


def same_text(
    ws: Workspace,
    sae: str,
    feature: int,
) -> pd.DataFrame:
    """The top contexts of one feature on either side, as both models read them, a row a context:
    `document`, `found` (the side on whose list it is), and for each side `<side>_ends`, `_heat`,
    `_peak`, `_activation`; for `own` as well, B's own SAE at the feature's native twin, where that
    was measured."""
    sides = ["a", "b"]
    if has(ws, f"together_own/{sae}"):
        sides.append("own")

    parts = []
    for side in sides:
        part = unpacked(ws.table(f"together_{side}/{sae}", feature=feature)).drop(columns="feature")
        parts.append(part.set_index(["document", "found"]).add_prefix(f"{side}_"))
    both, own = pd.concat(parts[:2], axis=1, join="inner"), parts[2:]
    return both.join(own).reset_index()


def unpacked(table: pd.DataFrame) -> pd.DataFrame:
    """A table with `activation` and the columns of `core.features.examples.packed`: `ends` [n + 1]
    in the place of `begin` and `lengths`, `heat` [n] in activations."""
    ends = [
        begin + np.cumsum([0, *lengths])
        for begin, lengths in zip(table.begin, table.lengths, strict=True)
    ]
    heat = [
        np.asarray(h) * (scale / 255) for h, scale in zip(table.heat, table.activation, strict=True)
    ]
    return table.drop(columns=["begin", "lengths"]).assign(ends=ends, heat=heat)


def peak_tokens(
    ws: Workspace,
    sae: str,
    texts: Mapping[str, str],
    features: Sequence[int] | None = None,
    most: int = 3,
) -> pd.Series:
    """By feature, of all or of some, the tokens of A at which it is strongest in its top contexts,
    the commonest first, at most `most`; `texts` are the corpus's documents. Features without a
    context that can be shown are left out."""
    chosen: dict[str, Any] = {} if features is None else {"feature": list(map(int, features))}
    columns = ["feature", "document", "begin", "lengths", "peak"]
    table = ws.table(f"examples_a/{sae}", columns, group="top", **chosen)
    tokens: dict[int, Counter[str]] = {}
    rows = zip(*(table[column] for column in columns), strict=True)
    for feature, document, begin, lengths, peak in rows:
        if len(lengths) and document in texts:
            before = lengths[:peak].tolist()
            at = int(begin) + sum(before)
            token = texts[document][at : at + int(lengths[peak])]
            tokens.setdefault(int(feature), Counter())[token] += 1
    common = {f: [token for token, _ in seen.most_common(most)] for f, seen in tokens.items()}
    return pd.Series(common, dtype=object)


def feature_logits(
    ws: Workspace,
    sae: str,
    side: str,
    feature: int,
) -> pd.DataFrame:
    """The tokens that one feature raises (`rank` 0 and up) and lowers (-1 and down) most: `rank`,
    `token`, `weight`."""
    return ws.table(f"logits/{sae}", feature=feature, side=side).loc[:, ["rank", "token", "weight"]]


def feature_histogram(
    ws: Workspace,
    sae: str,
    side: str,
    feature: int,
) -> pd.DataFrame:
    """How often one feature was active, by half octave: `low`, `high` of the activation,
    `tokens`."""
    (counts,) = ws.table(f"histograms_{side}/{sae}", feature=feature).histogram
    lows = [2.0 ** (k / 2 - 10) for k in range(len(counts) + 1)]
    return pd.DataFrame(
        {
            "low": lows[:-1],
            "high": lows[1:],
            "tokens": counts,
        }
    )


def neuronpedia(
    ws: Workspace,
    sae: str,
    feature: int,
) -> str | None:
    """The feature's page on Neuronpedia, for an SAE of a release that has one there."""
    config = json.loads((ws.path(f"saes/{sae}") / "cfg.json").read_text("utf-8"))
    known = (config.get("metadata") or {}).get("neuronpedia_id")
    if not isinstance(known, str) or not re.fullmatch(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+", known):
        return None
    return f"https://www.neuronpedia.org/{known}/{feature}"


def feature_record(
    ws: Workspace,
    sae: str,
    feature: int,
) -> dict[str, Any]:
    """All that is known of one feature, for a file: its measures, explanations by others, tokens,
    histograms and contexts (as pointers)."""
    (row,) = ws.table(f"features/{sae}", feature=feature).to_dict("records")
    record: dict[str, Any] = {
        "pair": ws.pair,
        "sae": sae,
        "makers": makers(ws, f"features/{sae}"),
        "feature": {k: None if v != v else v for k, v in row.items()},
    }
    by_others = explained.of_feature(ws, sae, feature).drop(columns="feature")
    record["explanations"] = json.loads(by_others.to_json(orient="records") or "[]")
    for side in ("a", "b"):
        bars = feature_histogram(ws, sae, side, feature)
        tables = {
            "logits": feature_logits(ws, sae, side, feature),
            "histogram": bars[bars.tokens > 0],
            "contexts": feature_examples(ws, sae, side, feature),
        }
        record[side] = {
            what: json.loads(table.to_json(orient="records")) for what, table in tables.items()
        }
    return record


def feature_counts(ws: Workspace, sae: str) -> dict[str, Any]:
    """What `report --json` says of an SAE's features: `counts` by kind; `correlation` of
    transferred, random and shuffled (mean, median, q05, q95) over the features with enough joint
    activations; `effect` of the transfer against each control, see `effect`; `median_by_kind` of
    Eq. 10."""
    table = ws.table(f"features/{sae}")
    table["kind"] = kinds_of_features(table)
    found = table.kind.tolist()
    kinds = ("semantic", "structural", "unseen", "dead")
    values = {
        name: table.loc[table.reliable, column].dropna().to_numpy()
        for name, column in (
            ("transferred", "correlation"),
            ("random", "random"),
            ("shuffled", "shuffled"),
        )
    }
    correlation = {}
    for name, x in values.items():
        if len(x):
            q05, median, q95 = (float(np.quantile(x, q)) for q in (0.05, 0.5, 0.95))
            correlation[name] = {
                "mean": float(x.mean()),
                "median": median,
                "q05": q05,
                "q95": q95,
            }
    against = {
        c: effect(values["transferred"], values[c])
        for c in ("random", "shuffled")
        if len(values[c])
    }
    by_kind = table.loc[table.reliable].groupby("kind").correlation.median()
    return {
        "counts": {k: found.count(k) for k in kinds},
        "correlation": correlation,
        "effect": against,
        "median_by_kind": {str(k): float(x) for k, x in by_kind.items()},
    }
