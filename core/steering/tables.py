"""The evaluation of steering as tidy tables for the page, and the paper's own figures beside it
(Tables 5 and 6)."""

from typing import Any

import numpy as np
import pandas as pd

from core.errors import StitchLensError
from core.models.pairs import SIDES, Side, get_pair
from core.statistics import mean_interval
from core.steering.instructions import CONDITIONS
from core.steering.keys import LANE_KINDS
from core.steering.sources import Brought, Feature, Source, VectorFile
from core.stitches import tables as stitch_tables
from core.text.languages import LANGUAGES, prompts, transfer_gap
from core.workspace.store import Workspace, has, makers

OPERATORS = {
    "clamp": "Eq. 8 and 9: h + strength (z̄ - ⟨h, v⟩) v",
    "add": "h + strength z̄ v, on top of what is there",
}
"""Those of `core.steering.generate`, in words."""
_PAPER = """
bg .31 .01 .24 .00 | cs .42 .02 .55 .00 | da .42 .25 .65 .14 | de .81 .79 .85 .83 | el .85 .48 .87 .04
es .74 .69 .80 .69 | et .28 .01 .36 .00 | fi .40 .06 .17 .01 | fr .83 .77 .09 .69 | hu .72 .06 .02 .01
it .69 .60 .07 .56 | lt .23 .00 .00 .00 | lv .50 .00 .00 .00 | nl .67 .64 .09 .53 | pl .62 .18 .01 .01
pt .76 .63 .09 .62 | ro .40 .09 .00 .01 | sk .19 .01 .40 .01 | sl .28 .02 .27 .00 | sv .69 .48 .79 .31
"""  # noqa: E501
"""Tables 5 and 6: language; own and transferred rates of Gemma-2-2B; own and transferred rates of
Gemma-2-9B."""


def paper() -> pd.DataFrame:
    """Tables 5 and 6: `side` ('a' Gemma-2-2B, 'b' Gemma-2-9B, the model that is steered),
    `language`, `name`, `own`, `transferred`, `gap` (Eq. 16)."""
    names, rows = dict(LANGUAGES.values()), []
    for cell in _PAPER.replace("\n", "|").split("|"):
        if parts := cell.split():
            code, *x = parts[0], *map(float, parts[1:])
            rows += [("a", code, names[code], x[0], x[1]), ("b", code, names[code], x[2], x[3])]
    table = pd.DataFrame(rows, columns=["side", "language", "name", "own", "transferred"])
    return table.assign(
        gap=[transfer_gap(y, x) for x, y in zip(table.own, table.transferred, strict=True)]
    )


def steering(ws: Workspace, side: str) -> pd.DataFrame:
    """One row a language and kind of vector, for the steered model: see
    `core.steering.measure.summary`; first the languages with the most transferred responses."""
    table = ws.table("steering", side=side)
    order = (
        table.loc[table.kind == "transferred"]
        .sort_values(["rate", "success"], ascending=False)
        .language.to_list()
    )
    return table.sort_values(
        "language", key=lambda s: s.map(order.index), kind="stable"
    ).reset_index(drop=True)


def means(ws: Workspace, side: str) -> pd.DataFrame:
    """Fig. 3b: `rate` and `success` of each kind over all languages, with `low`, `high` (95 %,
    bootstrap over languages), and the `paper`'s rate."""
    table = steering(ws, side)
    theirs = paper().query("side == @side")[["own", "transferred"]].mean().to_dict()
    theirs["none"] = 0.0

    # One generator for all kinds, in their order.
    rng = np.random.default_rng(0)
    rows = []
    for kind in LANE_KINDS:
        languages = table.loc[table.kind == kind]
        if languages.empty:
            continue

        rate, low, high = mean_interval(languages.rate.to_numpy(), rng)
        row = {
            "kind": kind,
            "rate": rate,
            "low": low,
            "high": high,
            "success": languages.success.mean(),
            "loss": languages.loss.mean(),
            "paper": theirs.get(kind),
        }
        rows.append(row)
    return pd.DataFrame(rows, columns=["kind", "rate", "low", "high", "success", "loss", "paper"])


def gaps(ws: Workspace, side: str) -> pd.DataFrame:
    """Eq. 16 a language: `language`, `name`, `gap`, `own`, `transferred`, `characters` of it in the
    pair's corpus, and `natural`, the loss of real text under the model that the vector comes from
    (nats/token)."""
    table = steering(ws, side)
    wide = table.pivot_table(
        index=["language", "name"],
        columns="kind",
        values="rate",
    ).reset_index()
    gap = table.loc[table.kind == "transferred"].set_index("language").gap
    other = (
        ws.table("steering", side="b" if side == "a" else "a")
        .drop_duplicates("language")
        .set_index("language")
    )
    wide["gap"] = wide.language.map(gap)
    wide["natural"] = wide.language.map(other.natural)
    wide["characters"] = wide.language.map(
        ws.table("steering").drop_duplicates("language").set_index("language").characters
    )
    return wide


def generations(
    ws: Workspace,
    side: str,
    language: str,
    kind: str,
) -> pd.DataFrame:
    """What was written in one cell: `prompt`, `text`, `detected`, `probability`, `loss`,
    `repetition`, `hit`, `fluent`."""
    label = next((label for label, (code, _) in LANGUAGES.items() if code == language), language)
    table = ws.table("generations", side=side, kind=kind)
    table = (
        table.assign(hit=table.detected == language)
        if kind == "none"
        else table.loc[table.label == label]
    )
    return table.assign(prompt=[prompts()[1][k] for k in table.prompt]).reset_index(drop=True)


def choices(
    ws: Workspace,
    side: str,
    kind: str = "transferred",
) -> pd.DataFrame:
    """What the first half of the prompts chose from: means over languages by `stitch`, `span`,
    `strength`."""
    table = ws.table("steering_choice", side=side, kind=kind)
    found = pd.DataFrame(
        table.pivot_table(index=["stitch", "span", "strength"], values=["rate", "success", "loss"])
    )
    return found.reset_index().sort_values("success", ascending=False).reset_index(drop=True)


def stitch_for(ws: Workspace, source: Source) -> str:
    """The stitch that carries a source: of an SAE's feature one from the SAE's layer, the one that
    its features were measured through first; of a vector that was brought one from its layer, if
    there is one; of anything else the default stitch.

    Raises StitchLensError where none fits, with the command that fits one.
    """
    names = stitch_tables.stitch_names(ws) if ws.exists else []
    if not names:
        raise StitchLensError(
            f"no stitch in workspace '{ws.pair}'", "one", f"run `python -m core build {ws.pair}`"
        )
    match source:
        case Feature(sae, _):
            return _stitch_from(ws, sae)
        case Brought(name) if has(ws, f"vector_cards/{name}"):
            record = vector_card(ws, name)
            return _stitch_at(ws, names, record["side"], record["layer"])
        case VectorFile(_, side, layer) if side is not None:
            return _stitch_at(ws, names, side, layer)
    return names[0]


def _stitch_from(ws: Workspace, sae: str) -> str:
    fitting = stitch_tables.stitches_from(ws, sae)
    if not fitting:
        layer, pair = makers(ws, f"saes/{sae}")["layer_a"], get_pair(ws.pair)
        opposite = stitch_tables.opposite(ws, pair, layer)
        raise StitchLensError(
            f"no stitch from layer {layer} of {pair.a.title}, where SAE {sae} reads",
            "one that carries its features",
            f"run `python -m core stitch fit {ws.pair} --layer-a {layer} --layer-b {opposite}`",
        )
    measured = None
    if has(ws, f"features/{sae}"):
        measured = makers(ws, f"features/{sae}").get("stitch_name")
    return measured if measured in fitting else fitting[0]


def _stitch_at(
    ws: Workspace,
    names: list[str],
    side: str,
    layer: int | None,
) -> str:
    """The first one at that layer of that side; the default one where none is."""
    at = [name for name in names if makers(ws, f"stitches/{name}").get(f"layer_{side}") == layer]
    return (at or names)[0]


def presets(ws: Workspace, most: int = 6) -> list[dict[str, Any]]:
    """Languages to which a transferred vector steers B best, each with its setting, and a prompt at
    which it did: `language`, `name`, `prompt`, `stitch`, `first`, `last`, `strength`.

    A setting whose stitch is no longer in the workspace is left out: it could not be run.
    """
    artifacts = ws.names()
    if "steering" not in artifacts:
        return []

    table = steering(ws, "b")
    rows = table.loc[(table.kind == "transferred") & ("stitches/" + table.stitch).isin(artifacts)]
    best = rows.sort_values("success", ascending=False).head(most)
    settings = []
    for row in best.to_dict("records"):
        texts = generations(ws, "b", row["language"], "transferred")
        hits = texts.loc[texts.hit & texts.fluent]
        if hits.empty:
            continue

        clearest = hits.sort_values(["probability", "loss"], ascending=[False, True]).iloc[0]
        first = int(ws.entry(f"stitches/{row['stitch']}").makers["layer_b"])
        settings.append(
            {
                "language": row["language"],
                "name": row["name"],
                "prompt": clearest.prompt,
                "stitch": row["stitch"],
                "first": first,
                "last": first + int(row["span"]) - 1,
                "strength": float(row["strength"]),
            }
        )
    return settings


def as_text(found: dict[str, Any]) -> str:
    lines = []
    for way, title in (("a_to_b", "B steered"), ("b_to_a", "A steered")):
        lines.append(f"{title}: share of responses in the language (95 % interval)")
        for language, kinds in found[way].items():
            cells = [
                f"{kind} {x['rate']:.2f} ({x['low']:.2f}, {x['high']:.2f})"
                for kind, x in kinds.items()
            ]
            lines.append(f"  {language}: " + "  ".join(cells))
    return "\n".join(lines)


def followed_sides(ws: Workspace) -> list[Side]:
    """The models whose following of instructions under steering was measured."""
    return [side for side in SIDES if has(ws, f"steering_instructions/{side}/rates")]


def followed(ws: Workspace, side: str) -> pd.DataFrame:
    """Fig. 12 and 13, one row an instruction and condition, for the steered model: see
    `core.steering.following.summary`; first the instructions that its own vectors bring about
    most."""
    table = ws.table(f"steering_instructions/{side}/rates")
    own = table.loc[table.kind == "own"].sort_values(
        ["rate", "success"], ascending=False, kind="stable"
    )
    order = own.label.to_list()
    return table.sort_values(
        "label", key=lambda labels: labels.map(order.index), kind="stable"
    ).reset_index(drop=True)


def followed_means(ws: Workspace, side: str) -> pd.DataFrame:
    """`rate` and `success` of each condition over all instructions, with `low`, `high` (95 %,
    bootstrap over instructions), `loss` and `repetition` on average."""
    table = followed(ws, side)
    rng = np.random.default_rng(0)
    rows = []
    for kind in CONDITIONS:
        some = table.loc[table.kind == kind]
        rate, low, high = mean_interval(some.rate.to_numpy(), rng)
        averages = some[["success", "loss", "repetition"]].mean().to_dict()
        rows.append({"kind": kind, "rate": rate, "low": low, "high": high, **averages})
    return pd.DataFrame(rows)


def followed_texts(
    ws: Workspace,
    side: str,
    label: str,
    kind: str,
) -> pd.DataFrame:
    """What was written in one cell: `prompt` (the request without the instruction), `text`,
    `loss`, `repetition`, `hit`, `fluent`."""
    return ws.table(f"steering_instructions/{side}/texts", label=label, kind=kind)


def followed_report(ws: Workspace) -> dict[str, Any]:
    """By steered model ('a', 'b'): whether each model has a `chat_template`, and by instruction and
    condition the `rate` of responses that follow with its interval; see
    `core.steering.following.summary`. Empty where nothing was measured."""
    out: dict[str, Any] = {}
    for side in followed_sides(ws):
        by_label: dict[str, Any] = {}
        for row in followed(ws, side).to_dict("records"):
            gap = row.pop("gap")
            cell = row | ({"gap": gap} if gap == gap else {})
            by_label.setdefault(cell.pop("label"), {})[cell.pop("kind")] = cell
        about = makers(ws, f"steering_instructions/{side}/rates")
        out[side] = {"chat_template": about["chat_template"], "instructions": by_label}
    return out


def followed_text(measured: dict[str, Any]) -> str:
    """`followed_report` in lines."""
    lines = []
    for side, part in measured.items():
        lines.append(f"{side.upper()} steered: share of responses that follow (95 % interval)")
        for label, kinds in part["instructions"].items():
            cells = [
                f"{kind} {x['rate']:.2f} ({x['low']:.2f}, {x['high']:.2f})"
                for kind, x in kinds.items()
            ]
            lines.append(f"  {label}: " + "  ".join(cells))
    return "\n".join(lines)


def vectors(ws: Workspace) -> list[str]:
    """The steering vectors that were brought, by name."""
    return [n.removeprefix("vectors/") for n in ws.names(prefix="vectors/")]


def vector_card(ws: Workspace, name: str) -> dict[str, Any]:
    """The report card of a vector that was brought: see `core.steering.card.vector_card`."""
    return ws.record(f"vector_cards/{name}")


BLIND = 10.0
"""Nats/token of words drawn blindly: ln of a vocabulary of 22,000."""


def fluency(loss: float, repetition: float) -> float:
    """How fluent a text is, 0 to 1, for a bar: 1 where each word was sure to come (`loss` 0
    nats/token under the unsteered model), 0 where words might have been drawn blindly (BLIND or
    more); less by the share of it that is `repetition`."""
    surprise = min(max(loss / BLIND, 0.0), 1.0)
    return (1 - surprise) * (1 - repetition)
