"""What refined stitches gained and cost, from a workspace's artifacts to tidy tables."""

from typing import Any

import pandas as pd

from core.stitches.conditions import STITCHED
from core.stitches.tables import _need
from core.workspace.store import Workspace, has, makers

COLUMNS = (
    "start",
    "kind",
    "condition",
    "model",
    "loss_unpatched",
    "loss_before",
    "loss_after",
    "relative_before",
    "relative_after",
    "change",
    "kl_before",
    "kl_after",
    "unexplained_before",
    "unexplained_after",
)


def refined_names(ws: Workspace) -> list[str]:
    """The refined stitches that were measured, in the order of the alphabet, KL's first."""
    names = [name.removeprefix("refine/") for name in ws.names(prefix="refine/")]
    return sorted(names, key=lambda name: (about(ws, name).get("objective") != "kl", name))


def about(ws: Workspace, name: str) -> dict[str, Any]:
    """How one was made: `of`, `objective`, `kinds`, `inversion`, `trained` (tokens of B),
    `seed`."""
    return dict(makers(ws, f"refine/{name}"))


def refinement(ws: Workspace, name: str) -> pd.DataFrame:
    """A row a start, kind of text and way: see `core.stitches.gains.gains`; besides `kl_before`,
    `kl_after` (nats a position that crossed) and `unexplained_before`, `unexplained_after` (of the
    variance, in the rows of all text). The kind whose text was trained on first, all text last.
    """
    table = ws.table(f"refine/{name}")
    _need(table.columns, COLUMNS, f"table 'refine/{name}'")
    if has(ws, f"ceiling/{name}"):
        ceiling = ws.table(f"ceiling/{name}")
        _need(ceiling.columns, COLUMNS, f"table 'ceiling/{name}'")
        table = pd.concat([table, ceiling], ignore_index=True)
    kinds = list(dict.fromkeys([*about(ws, name).get("kinds", ()), *table.kind]))
    order = {kind: number for number, kind in enumerate(kinds)}
    way = {condition: number for number, condition in enumerate(STITCHED)}
    keys = pd.DataFrame(
        {
            "start": table.start.map({start: n for n, start in enumerate(table.start.unique())}),
            "kind": table.kind.map(order),
            "way": table.condition.map(way),
        }
    )
    return table.loc[keys.sort_values(["start", "kind", "way"]).index].reset_index(drop=True)


def gained(ws: Workspace, name: str) -> dict[str, Any]:
    """By way, the rows of the fitted stitch on the first kind of text: what stands for the whole;
    under `kind` its name."""
    table = refinement(ws, name)
    first = table.loc[(table.start == "paired") & (table.kind == table.kind.iloc[0])]
    rows = {str(row["condition"]): row for row in first.to_dict("records")}
    return {"kind": str(first.kind.iloc[0])} | rows


def price(ws: Workspace, name: str) -> pd.DataFrame:
    """What features pay: see `core.features.price.price`. Empty where no SAE was there."""
    if not has(ws, f"refine_price/{name}"):
        return pd.DataFrame(columns=["sae", "measure", "before", "after", "change_low"])
    return ws.table(f"refine_price/{name}")


def record(ws: Workspace, name: str) -> dict[str, Any]:
    """`of`, `objective`, `kinds`, `inversion`, `trained`, `seed`; `starts`, by start, kind of text
    and way the rows of `refinement`; `price`, the rows of `price`."""
    starts: dict[str, Any] = {}
    for row in refinement(ws, name).to_dict("records"):
        measured = {str(k): v for k, v in row.items() if v == v}
        start, kind, way = (measured.pop(key) for key in ("start", "kind", "condition"))
        starts.setdefault(start, {}).setdefault(kind, {})[way] = measured

    setting = about(ws, name)
    keys = ("of", "objective", "kinds", "inversion", "round_trips", "trained", "seed")
    known = {key: setting.get(key) for key in keys}
    costs = [
        {str(k): v for k, v in row.items() if v == v} for row in price(ws, name).to_dict("records")
    ]
    return known | {"starts": starts, "price": costs}


def as_text(name: str, refined: dict[str, Any]) -> str:
    """What `stitch refine` prints, from the report's entry of a refined stitch."""
    lines = [
        f"{name}: {refined['of']} refined on {refined['objective']},"
        f" {refined['trained']:,} tokens of {', '.join(refined['kinds']) or 'all text'}"
    ]
    for start, kinds in refined["starts"].items():
        lines.append(f"  from {start}:")
        for kind, ways in kinds.items():
            cells = [
                f"{way} {x['relative_before']:+.1%} to {x['relative_after']:+.1%}"
                for way, x in ways.items()
            ]
            lines.append(f"    {kind}: {', '.join(cells)}")
            divergences = [
                f"{way} {x['kl_before']:.3f} to {x['kl_after']:.3f}"
                for way, x in ways.items()
                if "kl_after" in x
            ]
            if divergences:
                lines.append(f"      KL, nats: {', '.join(divergences)}")
            unexplained = [
                f"{way} {x['unexplained_before']:.3f} to {x['unexplained_after']:.3f}"
                for way, x in ways.items()
                if "unexplained_after" in x
            ]
            if unexplained:
                lines.append(f"      unexplained variance: {', '.join(unexplained)}")
    for cost in refined["price"]:
        lines.append(f"  {cost['measure']}: {cost['before']:.3f} to {cost['after']:.3f}")
    return "\n".join(lines)
