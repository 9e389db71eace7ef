"""Features that are worth trying to steer by, from the tables alone: those that fire at the same
places in both models, and whose label says in words what they fire at."""

import numpy as np
import pandas as pd

from core.features import alike
from core.features import tables as feature_tables
from core.steering.signs import of_feature
from core.workspace.store import Workspace

DENSITY = (2e-4, 0.15)
"""Share of tokens at which a feature is active, in either model: a rarer one has few contexts, a
commoner one says little."""
KINDS = ("language", "script")
"""Families of labels that name a kind of text."""
MANY = 2
"""Of the features whose label names a kind of text, how many come in turn with one of the others:
such a text is seen at once."""


def candidates(
    ws: Workspace,
    sae: str,
    most: int,
) -> pd.DataFrame:
    """The `most` features that are likeliest to show: `feature`, `label`, `agreement` (of firings
    in both models, r), `f1` (of the label, the geometric mean over both models), `kind` (whether it
    names a kind of text), `prior` (agreement times F1).

    Those whose label names a language or a script, and those whose label names words, come in turn,
    each in the order of `prior`; left out are features whose label names nothing of the kind, and
    those whose density is not in DENSITY."""
    labels = alike.labels(ws, sae).set_index("feature")
    agreement = alike.agreement(ws, sae).set_index("feature").agreement
    features = feature_tables.features(ws, sae).set_index("feature")
    density = features[["density_a", "density_b"]].to_numpy()
    inside = np.all((density >= DENSITY[0]) & (density <= DENSITY[1]), axis=1)
    sane = features.index.to_numpy()[np.flatnonzero(inside)]

    named = {feature: of_feature([], label) for feature, label in labels.iterrows()}
    table = pd.DataFrame(
        {
            "label": labels.label,
            "agreement": agreement,
            "f1": np.sqrt(labels.f1_a * labels.f1_b),
            "kind": labels.first_family.isin(KINDS)
            & pd.Series({f: s.whole for f, s in named.items()}),
            "shows": pd.Series({f: bool(s.words or s.forms or s.whole) for f, s in named.items()}),
        }
    )
    table["prior"] = table.agreement.clip(lower=0) * table.f1
    table = table.loc[table.shows & table.index.isin(sane) & table.prior.gt(0)]
    table = table.sort_values("prior", ascending=False, kind="stable")
    table = table.rename_axis("feature").reset_index()

    turn = table.groupby("kind").cumcount() // table.kind.map({True: MANY, False: 1})
    in_turn = table.assign(turn=turn).sort_values(["turn", "prior"], ascending=[True, False])
    return in_turn.drop(columns=["turn", "shows"]).head(most).reset_index(drop=True)
