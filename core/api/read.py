"""Tables as the API answers them: of what all share, with null for what is not a number."""

import contextlib
import json
from typing import Any

import pandas as pd

from core.api.problems import Missing
from core.errors import StitchLensError
from core.features import search
from core.features import tables as feature_tables
from core.models.pairs import PairSpec, get_pair
from core.steering.finding import measured_sae
from core.stitches import directions
from core.stitches import tables as stitch_tables
from core.stitches.conditions import TABLE_1
from core.workspace.places import PRIVATE_ENV
from core.workspace.store import Workspace, has

Row = dict[str, Any]


def spec(pair: str) -> PairSpec:
    """Raises Missing for a pair that is not known."""
    try:
        return get_pair(pair)
    except StitchLensError as e:
        raise Missing(e.found, e.wanted, "see /pairs") from None


def workspace(pair: str) -> Workspace:
    """What all share of a pair. Raises Missing where nothing was measured, and StitchLensError
    where this process was started to see what one person brought."""
    ws = Workspace(spec(pair).key)
    if ws.private is not None:
        raise StitchLensError(
            f"{PRIVATE_ENV}, which names what one person brought",
            "what all share",
            "start the API without it",
        )
    if not ws.exists:
        raise Missing(
            f"no workspace for '{pair}'",
            "a built one",
            f"run `python -m core build {pair}`",
        )
    return ws


def sae_of(ws: Workspace, sae: str | None) -> str:
    """Raises Missing for an SAE whose features were not measured."""
    name = measured_sae(ws, sae)
    return one_of(name, feature_tables.saes(ws), "SAE")


def stitch(ws: Workspace, name: str | None) -> str:
    """The stitch of that name, or the default one. Raises Missing where there is none."""
    names = stitch_tables.stitch_names(ws)
    return one_of(name or next(iter(names), "of any name"), names, "stitch")


def one_of(name: str, names: list[str], what: str) -> str:
    if name not in names:
        raise Missing(
            f"{what} '{name}'",
            f"one of {', '.join(names)}",
            "choose one",
        )
    return name


def no_empty(text: str) -> None:
    """Raises StitchLensError where there is nothing to read."""
    if not text.strip():
        raise StitchLensError("an empty text", "a sentence or more", "type or paste one")


def pair_row(spec: PairSpec) -> Row:
    ws = Workspace(spec.key).shared
    saes: list[str] = []
    with contextlib.suppress(StitchLensError):
        saes = feature_tables.saes(ws) if ws.exists else []
    return {
        "pair": spec.key,
        "title": spec.title,
        "family": spec.family,
        "a": spec.a.title,
        "b": spec.b.title,
        "workspace": ws.exists,
        "saes": saes,
    }


def stitch_rows(ws: Workspace) -> list[Row]:
    table = stitch_tables.stitches(ws)
    rows = []
    for row in records(table):
        known: Row = {key: row[key] for key in ("name", "layer_a", "layer_b", "method", "metric")}
        rows.append(
            known
            | {key: row[key] for key in ("alpha", "fuv_up", "fuv_down")}
            | {
                "ways": directions.ways(ws, row["name"]),
                "losses": {key: row[key] for key in TABLE_1},
                "relative": {key: row[f"{key}_relative"] for key in TABLE_1},
            }
        )
    return rows


def ordered(ws: Workspace, sae: str, key: str, descending: bool) -> list[int]:
    """Every feature, by one of its measures; those without it last, equal ones by number."""
    columns = search.measures(ws, sae)
    numbers = columns["correlation"].index.to_series()
    column = numbers if key == "feature" else columns.get(key, numbers * float("nan"))
    order = column.sort_index().sort_values(
        ascending=not descending,
        kind="stable",
        na_position="last",
    )
    return [int(feature) for feature in order.index]


def feature(ws: Workspace, sae: str, number: int) -> Row:
    """All that is known of one. Raises Missing where there is no such feature."""
    width = len(ws.table(f"features/{sae}"))
    if number >= width:
        raise Missing(
            f"feature {number}",
            f"0 to {width - 1} of SAE {sae}",
            "choose one of these",
        )
    record = feature_tables.feature_record(ws, sae, number)
    record["neuronpedia"] = feature_tables.neuronpedia(ws, sae, number)
    label = rows_of(ws, f"labels/{sae}", feature=number)
    record["label"] = label[0] if label else None
    record["agreement"] = rows_of(ws, f"agreement/{sae}", feature=number)
    record["twins"] = rows_of(ws, f"twins/{sae}", feature=number, side="a")
    return record


def rows_of(ws: Workspace, name: str, **equal: Any) -> list[Row]:
    """Rows of a table; none where it was not measured."""
    return records(ws.table(name, **equal)) if has(ws, name) else []


def records(table: pd.DataFrame) -> list[Row]:
    """Rows as JSON has them."""
    text = table.to_json(orient="records", date_format="iso")
    return json.loads(text or "[]")


def stitch_of(ws: Workspace, sae: str) -> str:
    """The stitch that an SAE's features were measured through."""
    from core.features.measure import stitch_of as measured_through

    return measured_through(ws, sae)
