"""Entropy features at the last layers as tables for their page, and in a few numbers for the report
(5.2, Fig. 5a). Entropy is in nats, sizes are shares of the residual stream's norm."""

from typing import Any

import numpy as np
import pandas as pd

from core.errors import StitchLensError
from core.functional.criterion import parts
from core.statistics import share_interval
from core.workspace.store import Workspace

CONTROLS = ("random direction", "random SAE")
POWER = 0.8
"""The chance to be found from which a planted feature counts as one that would have been seen."""
STEPS = ("planted", "features", "about")


def measured(ws: Workspace) -> list[str]:
    """What was measured, such as `a-L29`, by model, the last layer first."""
    if not ws.exists:
        return []

    names = {full.split("/")[1] for full in ws.names(prefix="entropy_last/")}
    artifacts = ws.manifest().artifacts
    whole = [n for n in names if all(f"entropy_last/{n}/{step}" in artifacts for step in STEPS)]
    return sorted(whole, key=lambda name: (name[0], -int(name.partition("-L")[2])))


def features(ws: Workspace, name: str) -> pd.DataFrame:
    """See `core.functional.last`: a row a feature that was tried, and a row a control."""
    _check(ws, name)
    return ws.table(f"entropy_last/{name}/features")


def plants(ws: Workspace, name: str) -> pd.DataFrame:
    """See `core.functional.planted`: a row a planted feature."""
    _check(ws, name)
    return ws.table(f"entropy_last/{name}/planted")


def about(ws: Workspace, name: str) -> dict[str, Any]:
    """The SAE's quality, and counts."""
    _check(ws, name)
    return ws.record(f"entropy_last/{name}/about")


def _check(ws: Workspace, name: str) -> None:
    if (known := measured(ws)) and name not in known:
        raise StitchLensError(
            f"no last layer '{name}' measured for {ws.pair}",
            f"one of {', '.join(known)}",
            f"choose one, or run `python -m core functional entropy {ws.pair}`",
        )


def power(table: pd.DataFrame) -> pd.DataFrame:
    """Of `plants`, a row a kind, size and number of firings: `kind`, `size`, `firings`, `n`,
    `found`, and `share` found with its exact interval `low`, `high` (95 %)."""
    rows = []
    for setting, one in table.groupby(["kind", "planted", "fires_in"]):
        kind, size, documents = setting  # type: ignore[misc]
        hits, n = int(one.found.sum()), len(one)
        low, high = share_interval(hits, n)
        rows.append(
            {
                "kind": kind,
                "size": round(float(size), 4),
                "documents": int(documents),
                "firings": int(one.places.median()),
                "n": n,
                "found": hits,
                "share": hits / n,
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(rows)


def seen_from(powers: pd.DataFrame, kind: str) -> dict[int, float]:
    """By number of firings, the least size from which on planted features of a kind, of that size
    and every larger one, are found with a chance of POWER; without those that no size suffices
    for."""
    least: dict[int, float] = {}
    for firings, one in powers.loc[powers.kind == kind].groupby("firings"):
        falling = one.sort_values("size", ascending=False)
        enough = falling.share.ge(POWER).cummin()
        if enough.any():
            least[int(str(firings))] = float(falling["size"][enough].min())
    return least


def summary(ws: Workspace, name: str) -> dict[str, Any]:
    """What `report --json` says of one layer.

    `tried` features, `dense` ones among them; `found`, those that pass the criterion, with the
    exact interval of their share, and `entropy_features`, which these are; `criterion`, how many
    each of its parts holds of; `controls`, those found among random directions and features of a
    random SAE; `planted`, see `power`; `seen_from`, the least size by number of firings at which a
    planted one that is not read at all is found with a chance of POWER, and `large_enough`, how
    many features are that large; `seen_as_it_is`, the same in the null space of the model as it
    is; `size`, the features' own (5 %, 50 %, 95 %); `sae`, its quality; `floor`, how strongly the
    unembedding reads even its null space (1 is a random direction).
    """
    table, known = features(ws, name), about(ws, name)
    powers = power(plants(ws, name))
    own = table.loc[table.kind == "feature"]
    found = own.loc[own.found].sort_values("free", key=np.abs, ascending=False)
    low, high = share_interval(len(found), len(own))
    columns = ["feature", "density", "size", "entropy", "share", "reading"]
    effects = ("free", "frozen", "left", "total") if len(found) else ()
    columns += [f"{what}{end}" for what in effects for end in ("", "_low", "_high")]
    least = seen_from(powers, "unread")
    as_it_is = seen_from(powers, "entropy")
    most = max(least, default=0)
    return {
        "side": name[0],
        "layer": int(name.partition("-L")[2]),
        "features": known["features"],
        "tried": len(own),
        "dense": known["dense"],
        "documents": known["documents"],
        "sae": known["sae"],
        "floor": known["floor"],
        "found": len(found),
        "found_low": low,
        "found_high": high,
        "entropy_features": [
            {column: _plain(row[column]) for column in columns} for row in found.to_dict("records")
        ],
        "criterion": {part: int(holds.sum()) for part, holds in parts(own).items()},
        "controls": {
            kind: {
                "n": int((table.kind == kind).sum()),
                "found": int(table.found[table.kind == kind].sum()),
            }
            for kind in CONTROLS
        },
        "planted": powers.to_dict("records"),
        "seen_from": {str(firings): size for firings, size in least.items()},
        "seen_as_it_is": {str(firings): size for firings, size in as_it_is.items()},
        "large_enough": int((own["size"] >= least[most]).sum()) if least else 0,
        "size": [float(own["size"].quantile(q)) for q in (0.05, 0.5, 0.95)],
    }


def _plain(value: Any) -> int | float:
    return int(value) if isinstance(value, int | np.integer) else float(value)


def as_text(measured_layers: dict[str, dict[str, Any]]) -> str:
    """For a terminal."""
    lines = []
    for name, one in measured_layers.items():
        controls = ", ".join(
            f"{kind} {part['found']} of {part['n']}" for kind, part in one["controls"].items()
        )
        semantic = [row for row in one["planted"] if row["kind"] == "semantic"]
        mistaken = sum(row["found"] for row in semantic)
        lines += [
            f"{name}: {one['found']} entropy features of {one['tried']} tried"
            f" [{100 * one['found_low']:.2g} %, {100 * one['found_high']:.2g} %], {one['dense']} of"
            f" them dense; SAE of {one['features']:,} features, explained variance"
            f" {one['sae']['explained_variance']:.2f}",
            f"  controls: {controls}; planted semantic ones {mistaken} of"
            f" {sum(row['n'] for row in semantic)}",
        ]
        lines += [
            f"  one that is not read at all is found with a chance of {POWER} from {100 * size:g} %"
            f" of the stream's norm on, at {firings} firings"
            for firings, size in one["seen_from"].items()
        ]
        lines += [
            f"  one in the null space as it is, from {100 * size:g} % on, at {firings} firings"
            for firings, size in one["seen_as_it_is"].items()
        ]
        if not one["seen_as_it_is"]:
            lines.append("  one in the null space as it is, at no size")
        lines.append(
            "  sizes of features, share of the norm (5 %, 50 %, 95 %):"
            f" {', '.join(f'{x:.2f}' for x in one['size'])}; large enough: {one['large_enough']};"
            f" the null space is read {one['floor']:.2f} as strongly as a random direction"
        )
        lines += [
            f"  feature {row['feature']}: entropy {row['free']:+.3f} [{row['free_low']:+.3f},"
            f" {row['free_high']:+.3f}], frozen {row['frozen']:+.3f}, left {row['left']:.2f}"
            for row in one["entropy_features"][:8]
        ]
    return "\n".join(lines)
