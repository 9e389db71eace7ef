"""The features whose steering is worth seeing, as `core.steering.search` found them. Light: no
torch."""

from typing import Any, get_args

import numpy as np
import pandas as pd

from core.models.pairs import PairSpec, Side, get_pair
from core.statistics import document_interval
from core.steering.sources import Feature
from core.text.languages import prompts
from core.workspace.store import Workspace, makers

STEERED: Side = "b"
"""The model that features are chosen to steer, and in which they must show."""
SHOWS = 0.1
"""Of a text, at least, that a feature adds to what both controls show."""
FLUENT = 0.5
"""Share of its texts that are fluent, at least."""
CONTROLS = ("plain", "random")


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """A row a feature of the second stage, the best first: `feature`, `label`, `strength`; `gain`
    with `low`, `high` (95 %, bootstrap over prompts), how much more of a fluent text of B's shows
    the feature than of either control's, against the one where that is less; `fluent`, the share of
    B's texts that are; `<side>_shown`, `<side>_plain`, `<side>_random`, the means behind them, A's
    for comparison; and whether it `passes`: `gain` of SHOWS
    or more with all of its interval above 0, `fluent` of FLUENT or more."""
    second = table.loc[table.stage == 2]
    second = second.assign(shows=second.shown * second.fluent)
    rows = [_ranked(int(str(feature)), texts) for feature, texts in second.groupby("feature")]
    columns = ["feature", "gain", "low", "passes"]
    features = pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
    return features.sort_values(
        ["passes", "gain"], ascending=False, kind="stable", ignore_index=True
    )


def _ranked(
    feature: int,
    texts: pd.DataFrame,
) -> dict[str, Any]:
    steered = texts.loc[texts.lane == "steered"]
    row: dict[str, Any] = {
        "feature": feature,
        "label": str(steered.label.iloc[0]),
        "strength": float(steered.strength.iloc[0]),
    }
    gains = []
    for side in get_args(Side):
        of_side = texts.loc[texts.side == side]
        cells = of_side.pivot_table(index=["prompt", "seed"], columns="lane", values="shows")
        row[f"{side}_shown"] = float(cells.steered.mean())
        for control in CONTROLS:
            row[f"{side}_{control}"] = float(cells[control].mean())
            more = (cells.steered - cells[control]).to_numpy()
            beginnings = np.array(cells.index.get_level_values("prompt"))
            if side == STEERED:
                gains.append(document_interval(more, beginnings))

    gain, low, high = min(gains)
    known = {
        "gain": gain,
        "low": low,
        "high": high,
        "fluent": float(steered.loc[steered.side == STEERED].fluent.mean()),
    }
    passes = gain >= SHOWS and low > 0 and known["fluent"] >= FLUENT
    return row | known | {"passes": bool(passes)}


def feature_presets(
    ws: Workspace,
    most: int = 3,
) -> list[dict[str, Any]]:
    """The features that pass, best first, each with its setting and a prompt at which it showed:
    `name` (what its `label` says, short), `shown` (by side: how much of the texts showed it, and of
    the controls'), `source`, `sae`, `feature`, `prompt`, `stitch`, `first` and `last`
    (layers of B), `strength`, and `watch`, a line that says what to look for. None before `steer
    features` has searched.
    """
    names = ws.names() if ws.exists else []
    settings: list[dict[str, Any]] = []
    for sae in (name.partition("/")[2] for name in names if name.startswith("feature_steering/")):
        stitch = makers(ws, f"feature_steering/{sae}")["stitch_name"]
        if f"stitches/{stitch}" not in names:
            continue

        table = ws.table(f"feature_steering/{sae}")
        layer = int(makers(ws, f"stitches/{stitch}")["layer_b"])
        best = ranked(table)
        for row in best.loc[best.passes].head(most).to_dict("records"):
            settings.append(
                {
                    "name": short(row["label"]),
                    "label": row["label"],
                    "shown": {
                        side: {lane: row[f"{side}_{lane}"] for lane in ("shown", *CONTROLS)}
                        for side in get_args(Side)
                    },
                    "source": str(Feature(sae, row["feature"])),
                    "sae": sae,
                    "feature": row["feature"],
                    "prompt": clearest(table, row["feature"]),
                    "stitch": stitch,
                    "first": layer,
                    "last": layer,
                    "strength": row["strength"],
                    "watch": watch(get_pair(ws.pair), row),
                }
            )
    return settings


def clearest(
    table: pd.DataFrame,
    feature: int,
) -> str:
    """The prompt from which B's fluent texts show a feature most."""
    texts = table.loc[
        (table.stage == 2)
        & (table.feature == feature)
        & (table.side == "b")
        & (table.lane == "steered")
    ]
    shows = (texts.shown * texts.fluent).groupby(texts.prompt).mean()
    return prompts()[1][int(str(shows.idxmax()))]


def short(
    label: str,
    most: int = 2,
) -> str:
    """A label in a few words, for a button: `in Danish or Swedish …`."""
    first = label.partition(" · ")[0]
    names = first.split(" or ") if " or " in first else first.split('" "')
    joint = " or " if " or " in first else '" "'
    if len(names) <= most:
        return first
    end = '" …' if joint == '" "' else " …"
    return joint.join(names[:most]) + end


def watch(
    pair: PairSpec,
    row: dict[str, Any],
) -> str:
    """What to look for, and how much of the texts showed it."""
    shares = " and ".join(
        f"{row[f'{side}_shown']:.0%} of what {spec.title} wrote (unsteered"
        f" {row[f'{side}_plain']:.0%}, random vector {row[f'{side}_random']:.0%})"
        for side, spec in (("b", pair.b), ("a", pair.a))
    )
    return f"Labelled {row['label']}: shown by {shares}."
