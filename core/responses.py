"""The evaluation of steering as tidy tables for the page, and the paper's own figures beside it (Tables 5 and 6)."""

from typing import Any

import numpy as np
import pandas as pd

from core.languages import LANGUAGES, prompts, transfer_gap
from core.store import Workspace

KINDS = {
    "none": ("no vector", "the model as it is"),
    "own": ("own vector", "DiffMean of the steered model itself"),
    "transferred": ("transferred vector", "DiffMean of the other model, carried through the stitch"),
    "random": ("random vector", "a random direction; the clamp moves as far as with the transferred vector"),
    "shuffled": ("shuffled stitch", "the other model's vector through a stitch fitted on shuffled pairs"),
}
"""Lanes: a short name and what it is."""
_BOTH = "bg cs da de el es et fi fr hu it lt lv nl pl pt ro sk sl sv".split()
_OWN_2B = (.31, .42, .42, .81, .85, .74, .28, .40, .83, .72, .69, .23, .50, .67, .62, .76, .40, .19, .28, .69)  # fmt: skip
_MOVED_2B = (.01, .02, .25, .79, .48, .69, .01, .06, .77, .06, .60, .00, .00, .64, .18, .63, .09, .01, .02, .48)  # fmt: skip
_OWN_9B = (.24, .55, .65, .85, .87, .80, .36, .17, .09, .02, .07, .00, .00, .09, .01, .09, .00, .40, .27, .79)  # fmt: skip
_MOVED_9B = (.00, .00, .14, .83, .04, .69, .00, .01, .69, .01, .56, .00, .00, .53, .01, .62, .01, .01, .00, .31)  # fmt: skip


def paper() -> pd.DataFrame:
    """Tables 5 and 6: `side` ('a' Gemma-2-2B, 'b' Gemma-2-9B, the model that is steered), `language`, `name`, `own`,
    `transferred`, `gap` (Eq. 16)."""
    names = dict(LANGUAGES.values())
    rows = []
    for side, own, transferred in (("a", _OWN_2B, _MOVED_2B), ("b", _OWN_9B, _MOVED_9B)):
        for code, x, y in zip(_BOTH, own, transferred, strict=True):
            rows.append((side, code, names[code], x, y, transfer_gap(y, x)))
    return pd.DataFrame(rows, columns=["side", "language", "name", "own", "transferred", "gap"])


def steering(ws: Workspace, side: str) -> pd.DataFrame:
    """One row a language and kind of vector, for the model that is steered: see `core.evaluation.summary`; the languages
    with the most transferred responses first."""
    table = ws.table("steering", side=side)
    order = table.loc[table.kind == "transferred"].sort_values(["rate", "success"], ascending=False).language.to_list()
    return table.sort_values("language", key=lambda s: s.map(order.index), kind="stable").reset_index(drop=True)


def means(ws: Workspace, side: str) -> pd.DataFrame:
    """Fig. 3b: `rate` and `success` of each kind over all languages, with `low`, `high` (95 %, bootstrap over
    languages), and the `paper`'s rate."""
    table, g = steering(ws, side), np.random.default_rng(0)
    theirs = paper().query("side == @side")[["own", "transferred"]].mean().to_dict() | {"none": 0.0}
    rows = []
    for kind in KINDS:
        rates = table.loc[table.kind == kind]
        if len(rates):
            x = rates.rate.to_numpy()
            drawn = g.choice(x, (2000, len(x))).mean(1)
            low, high = np.quantile(drawn, [0.025, 0.975])
            rows.append((kind, x.mean(), low, high, rates.success.mean(), rates.loss.mean(), theirs.get(kind)))
    return pd.DataFrame(rows, columns=["kind", "rate", "low", "high", "success", "loss", "paper"])


def gaps(ws: Workspace, side: str) -> pd.DataFrame:
    """Eq. 16 a language: `language`, `name`, `gap`, `own`, `transferred`, `characters` of it in the pair's corpus, and
    `natural`, the loss of real text under the model that the vector comes from (nats/token)."""
    table = steering(ws, side)
    wide = table.pivot_table(index=["language", "name"], columns="kind", values="rate").reset_index()
    gap = table.loc[table.kind == "transferred"].set_index("language").gap
    other = ws.table("steering", side="b" if side == "a" else "a").drop_duplicates("language").set_index("language")
    wide["gap"] = wide.language.map(gap)
    wide["natural"] = wide.language.map(other.natural)
    wide["characters"] = wide.language.map(ws.table("steering").drop_duplicates("language").set_index("language").characters)
    return wide


def generations(ws: Workspace, side: str, language: str, kind: str) -> pd.DataFrame:
    """What was written in one cell: `prompt`, `text`, `detected`, `probability`, `loss`, `repetition`, `hit`,
    `fluent`."""
    label = next((label for label, (code, _) in LANGUAGES.items() if code == language), language)
    table = ws.table("generations", side=side, kind=kind)
    if kind == "none":
        table = table.assign(hit=table.detected == language)
    else:
        table = table.loc[table.label == label]
    return table.assign(prompt=[prompts()[1][k] for k in table.prompt]).reset_index(drop=True)


def choices(ws: Workspace, side: str, kind: str = "transferred") -> pd.DataFrame:
    """What the first half of the prompts chose from: means over languages by `stitch`, `span`, `strength`."""
    table = ws.table("steering_choice", side=side, kind=kind)
    groups = table.groupby(["stitch", "span", "strength"], as_index=False)
    return groups[["rate", "success", "loss"]].mean().sort_values("success", ascending=False).reset_index(drop=True)


def presets(ws: Workspace, most: int = 6) -> list[dict[str, Any]]:
    """Languages to which a transferred vector steers B best, each with its setting, and a prompt at which it did:
    `language`, `name`, `prompt`, `stitch`, `first`, `last`, `strength`."""
    if "steering" not in ws.names():
        return []
    table = steering(ws, "b")
    rows = table.loc[table.kind == "transferred"].sort_values("success", ascending=False).head(most)
    out = []
    for row in rows.to_dict("records"):
        texts = generations(ws, "b", row["language"], "transferred")
        good = texts.loc[texts.hit & texts.fluent]
        if len(good):
            one = good.sort_values(["probability", "loss"], ascending=[False, True]).iloc[0]
            first = int(ws.entry(f"stitches/{row['stitch']}").makers["layer_b"])
            out.append({
                "language": row["language"], "name": row["name"], "prompt": one.prompt, "stitch": row["stitch"],
                "first": first, "last": first + int(row["span"]) - 1, "strength": float(row["strength"]),
            })  # fmt: skip
    return out
