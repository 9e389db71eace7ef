"""`paper`: one of the paper's own pairs, built, and ours beside its Tables 1 and 2 and Fig. 14."""

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.cli.shared import JsonFlag, app, default_stitch, guarded, show
from core.cli.tables import as_table, with_names
from core.cli.words import fixed, percent
from core.config import POSITIONS, BuildConfig
from core.models.pairs import PAIRS, PairSpec, get_pair, same_model
from core.models.printed import SHORT, Carried, PaperRow, PaperSae
from core.stitches.conditions import BY_KEY, TABLE_1
from core.workspace.store import Workspace

if TYPE_CHECKING:
    from core.bench import Bench

BUILD = BuildConfig()
TABLE_2 = {
    "l0": "active features a token",
    "fuv": "variance unexplained",
    "delta_loss": "added loss, nats/token",
    "dead": "dead features",
}
"""Rows of the paper's Table 2, by our names."""
FIGURE_14 = {
    "transferred": "transferred feature",
    "random": "random SAE's feature",
    "shuffled": "through a stitch of shuffled pairs",
}


@app.command("paper")
@guarded
def paper_command(
    pair: Annotated[
        str,
        typer.Argument(help=f"{', '.join(SHORT)}, or any pair of `python -m core pairs`."),
    ],
    sae: Annotated[
        str | None,
        typer.Option(
            help=(
                "An SAE of A: a name, a zip or folder, RELEASE:ID, or hub:OWNER/NAME/FOLDER; the"
                " paper's if not given, and one trained here where it published none."
            )
        ),
    ] = None,
    positions: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Pairs of positions to fit on, and rows of an SAE that is trained; 0 for all of"
            f" the text. By default as many as the workspace was built with, {POSITIONS:,} in a new"
            " one.",
        ),
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of B scored on the held-out split for Table 1.")
    ] = BUILD.held_out_tokens,
    as_json: JsonFlag = False,
) -> None:
    """Build one of the paper's own pairs, carry its SAE, and print ours beside the paper's Table 1,
    Table 2 and Fig. 14. The models come from the hub; a killed run goes on where it was."""
    from core.bench import Bench
    from core.features.measure import explore
    from core.models.sources import locate
    from core.stitches.measure import build, positions_to_fit

    spec = get_pair(SHORT.get(pair, pair))
    theirs = printed(spec)
    for model in (spec.a, spec.b):
        locate(model)  # both, before anything is read

    pairs = positions_to_fit(Workspace(spec.key), positions)
    config = BuildConfig(positions=pairs, held_out_tokens=tokens)
    bench = Bench(spec, config)
    build(spec, config)
    stitch = default_stitch(bench.workspace)
    name = _sae(bench, sae, theirs.sae if theirs else None, stitch, pairs)
    explore(bench, name, stitch)

    record = beside(bench.workspace, spec, theirs, stitch, name)
    show(record, as_json, as_text(record, spec))


def printed(pair: PairSpec) -> PaperRow | None:
    """What the paper printed of a pair, or of one that stitches the same models at the same
    layers; None where it did not."""
    if pair.paper is not None:
        return pair.paper
    for known in PAIRS.values():
        models = ((known.a, pair.a), (known.b, pair.b))
        same = all(
            same_model(mine.key, theirs)
            and (mine.n_layers, mine.d_model) == (theirs.n_layers, theirs.d_model)
            for theirs, mine in models
        )
        places = [{(x.a, x.b) for x in spec.layer_pairs[:1]} for spec in (known, pair)]
        if known.paper is not None and same and places[0] == places[1]:
            return known.paper
    return None


def _sae(
    bench: "Bench",
    ref: str | None,
    theirs: PaperSae | None,
    stitch: str,
    positions: int | None,
) -> str:
    """The name of an SAE of A at the stitch's layer: the one asked for, the paper's, or one that is
    trained as the paper's was (4,096 features, TopK 32)."""
    from core.saes.adopt import adopt
    from core.saes.settings import SaeConfig
    from core.saes.train import train

    layer = bench.workspace.entry(f"stitches/{stitch}").makers["layer_a"]
    if ref is not None:
        return adopt(bench, ref, stitched=layer)
    if theirs is not None and theirs.ref:
        return adopt(bench, theirs.ref, layer, theirs.name, stitched=layer)
    return train(bench, layer, SaeConfig(), positions)


def beside(
    ws: Workspace,
    pair: PairSpec,
    theirs: PaperRow | None,
    stitch: str,
    sae: str,
) -> dict[str, Any]:
    """What a workspace measured beside what the paper printed: `table_1` by condition, the loss in
    nats/token and its increase, ours on the `text` that both models read best; `table_2` by measure
    and `figure_14` by SAE, ours alone. None where the paper has no such figure."""
    from core.features.tables import feature_counts
    from core.saes.tables import sae_quality
    from core.stitches.kinds import by_kind

    best = by_kind(ws, stitch).iloc[0]
    quality = sae_quality(ws, sae).set_index("name")
    counts = feature_counts(ws, sae)
    return {
        "pair": pair.key,
        "stitch": stitch,
        "sae": sae,
        "paper": theirs.label if theirs else None,
        "text": {"corpus": pair.corpus, "kind": best.kind, "documents": int(best.documents)},
        "table_1": {
            key: {
                "paper": getattr(theirs, key) if theirs else None,
                "ours": float(best[key]),
                "paper_relative": _increase(key, theirs.model_dump()) if theirs else None,
                "ours_relative": _increase(key, best),
            }
            for key in TABLE_1
        },
        "table_2": {
            key: {
                "paper": getattr(theirs.sae, key).model_dump() if theirs and theirs.sae else None,
                "ours": Carried(
                    original=float(quality.loc["original", key]),
                    transferred=float(quality.loc["transferred", key]),
                ).model_dump(),
            }
            for key in TABLE_2
        },
        "figure_14": counts["correlation"] | {"effect": counts["effect"]},
    }


def _increase(key: str, losses: Any) -> float:
    """Of a loss, over that of the model that comes last."""
    return float(losses[key] / losses[BY_KEY[key].model] - 1)


def as_text(record: dict[str, Any], pair: PairSpec) -> str:
    """The three tables for a terminal, the models by name."""
    names = {"a": pair.a.title, "b": pair.b.title}
    label = record["paper"] or "no row of this pair"
    text = record["text"]
    lines = [
        f"{pair.title}, stitch {record['stitch']}, SAE {record['sae']}.",
        f"The paper: {label}, on OpenWebText. Here: {text['kind']} of corpus '{text['corpus']}',"
        f" {text['documents']:,} held-out documents.",
        "",
        "Table 1: next-token loss, nats/token",
    ]
    losses = [
        (
            with_names(BY_KEY[key].label, names),
            *(fixed(row[whose]) + _change(key, row[f"{whose}_relative"]) for whose in WHOSE),
        )
        for key, row in record["table_1"].items()
    ]
    lines += as_table("model | the paper | here", losses)

    lines += ["", f"Table 2: an SAE of {names['a']}, in {names['b']} untrained"]
    carried = [
        (TABLE_2[key], *(_carried(key, row[whose]) for whose in WHOSE))
        for key, row in record["table_2"].items()
    ]
    lines += as_table("before / after | the paper | here", carried)

    lines += ["", "Fig. 14: attribution correlation of features (the paper draws it)"]
    spread = [
        (title, fixed(row["median"]), f"{fixed(row['q05'])} to {fixed(row['q95'])}")
        for which, title in FIGURE_14.items()
        if (row := record["figure_14"].get(which))
    ]
    lines += as_table("feature | median | 5 % to 95 %", spread)
    if effect := record["figure_14"]["effect"].get("random"):
        chance = percent(effect["superiority"])
        lines.append(f"A transferred feature exceeds a random SAE's with a chance of {chance}.")
    return "\n".join(lines)


WHOSE = ("paper", "ours")


def _change(key: str, relative: float | None) -> str:
    if relative is None or key == BY_KEY[key].model:
        return ""
    return f" ({percent(relative, sign=True)})"


def _carried(key: str, row: dict[str, float] | None) -> str:
    if row is None or any(math.isnan(x) for x in row.values()):
        return "–"
    write = percent if key == "dead" else fixed
    return f"{write(row['original'])} / {write(row['transferred'])}"
