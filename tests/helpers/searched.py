"""A search for features whose steering shows, with known outcomes."""

from typing import Any

import pandas as pd


def text(feature: int, side: str, lane: str, strength: float, **judged: Any) -> dict[str, Any]:
    usual = {"shown": 0.0, "fluent": True, "label": f"the word {feature}", "stage": 2}
    cell = {"feature": feature, "side": side, "lane": lane, "strength": strength}
    return cell | usual | judged


def searched() -> pd.DataFrame:
    """1 shows in both models, 2 in A alone, 3 no more than at random, 4 in texts that are not
    fluent, 5 from one beginning of six, 6 in B alone."""
    rows = []
    for feature in (1, 2, 3, 4, 5, 6):
        for side in ("a", "b"):
            for prompt in range(6):
                where = {"prompt": prompt, "seed": 0}
                steered = 0.5 + 0.01 * prompt
                silent = {2: "b", 6: "a"}.get(feature) == side
                if silent or (feature == 5 and prompt):
                    steered = 0.05
                drawn = steered if feature == 3 else 0.05
                fluent = feature != 4
                rows += [
                    text(feature, side, "plain", 0.0, shown=0.05, **where),
                    text(feature, side, "random", 2.0, shown=drawn, **where),
                    text(feature, side, "steered", 2.0, shown=steered, fluent=fluent, **where),
                ]
    return pd.DataFrame(rows)
