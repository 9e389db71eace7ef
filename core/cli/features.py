"""The commands of `core.features`."""

import json
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
import typer.core

from core.cli.scale import ShardOpt, features_share, own_shard
from core.cli.shared import (
    JsonFlag,
    PairArg,
    SaeLayerOpt,
    SaeOfPairOpt,
    ScaleOpt,
    StitchArg,
    app,
    default_stitch,
    guarded,
    listed,
    show,
)
from core.config import POSITIONS
from core.errors import StitchLensError
from core.features import alike
from core.models.pairs import PairSpec, get_pair
from core.saes.settings import SaeConfig
from core.steering.finding import measured_sae
from core.workspace.store import Workspace

if TYPE_CHECKING:
    from core.features.measure import Live
    from core.steering.studio import Studio

features = typer.Typer(
    help="Features of an SAE before and after transfer (3.1, 5.1).", no_args_is_help=True
)


app.add_typer(features, name="features")

TRAINED = SaeConfig()
"""What the options say that are not given."""


@features.command("build")
@guarded
def features_build_command(
    pair: PairArg,
    stitch_name: StitchArg = None,
    sae: Annotated[
        str | None,
        typer.Option(
            help=(
                "An SAE of A instead of training one: a name, a zip or folder, RELEASE:ID, or"
                " hub:OWNER/NAME/FOLDER."
            )
        ),
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Features of the SAE.")] = TRAINED.width,
    k: Annotated[int, typer.Option(min=1, help="Active features a token (TopK).")] = TRAINED.k,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over these rows.")] = TRAINED.epochs,
    lr: Annotated[
        float, typer.Option(help="Learning rate, constant; the paper uses 1e-4.")
    ] = TRAINED.lr,
    positions: Annotated[
        int, typer.Option(min=0, help="Rows to train on; 0 for the whole fit split.")
    ] = POSITIONS,
    kinds: Annotated[
        str | None,
        typer.Option(
            help="Kinds of text to train on, such as English,code; all of the corpus if not given."
        ),
    ] = None,
    sae_layer: SaeLayerOpt = None,
    scale: ScaleOpt = None,
    shard: ShardOpt = None,
) -> None:
    """Train an SAE of A at a stitch's layer, or take one; carry it over (Eq. 6); measure features
    before and after. With --shard, read one share of the text (see `merge`)."""
    from core.bench import open_pair
    from core.features import measure as feature_measure
    from core.features import tables as feature_tables
    from core.features.compare import compare
    from core.saes.adopt import adopt
    from core.saes.train import train

    share = own_shard(shard)
    bench = open_pair(pair)
    chosen = stitch_name or default_stitch(bench.workspace)
    layer = bench.workspace.entry(f"stitches/{chosen}").makers["layer_a"]
    if sae is None:
        if sae_layer is not None or scale is not None:
            raise StitchLensError(
                "--layer or --scale without --sae",
                "an SAE that they describe",
                "give --sae as well",
            )
        config = SaeConfig(
            width=width,
            k=k,
            epochs=epochs,
            lr=lr,
        )
        make = partial(train, bench, layer, config, positions or None, listed(kinds))
    else:
        make = partial(adopt, bench, sae, sae_layer, stitched=layer, scale=scale)
    if share:
        features_share(bench, make, chosen, share, trains=sae is None)
        return

    name = make()
    feature_measure.explore(bench, name, chosen)
    compare(bench, name, chosen)
    print(
        f"SAE {name} of A, carried to B by {chosen}:"
        f" {feature_tables.feature_counts(bench.workspace, name)['counts']}"
    )


@features.command("compare")
@guarded
def features_compare_command(
    pair: PairArg,
    sae: SaeOfPairOpt = None,
    stitch_name: StitchArg = None,
) -> None:
    """Measure agreement, labels and native twins of features that `features build` measured; train
    B's own SAE first, where it is missing."""
    from core.bench import open_pair
    from core.features.compare import compare
    from core.features.measure import stitch_of

    ws = Workspace(get_pair(pair).key)
    name = measured_sae(ws, sae)
    compare(open_pair(pair), name, stitch_name or stitch_of(ws, name))
    print(alike.as_text(ws, name))


@features.command("find")
@guarded
def features_find_command(
    pair: PairArg,
    query: Annotated[str, typer.Argument(help="A word; or see --sentence and --direction.")],
    sentence: Annotated[
        bool, typer.Option("--sentence", help="Let both models read it: which features fire?")
    ] = False,
    direction: Annotated[
        bool,
        typer.Option(
            "--direction",
            help="It names a vector, as for `steer --source`: vector:NAME, file:PATH, lang:fr.",
        ),
    ] = False,
    where: Annotated[
        str, typer.Option("--in", help="With --sentence: a, b or both models.")
    ] = "both",
    sae: SaeOfPairOpt = None,
    most: Annotated[int, typer.Option(min=1, help="Features shown.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """Find features by a word, a sentence or a direction."""
    from core.features import search
    from core.steering import finding

    if sentence and direction:
        raise StitchLensError("--sentence and --direction", "one of them", "leave the other out")
    spec = get_pair(pair)
    ws = Workspace(spec.key)
    name = measured_sae(ws, sae)

    if sentence:
        finding.check_where(where)
        live = _live(spec, name)
        about = finding.by_sentence(live, ws, name, query, where, most)
    elif direction:
        about = finding.by_direction(_studio(spec, name), name, query, most)
    else:
        about = finding.by_word(ws, spec, name, query, most)

    in_words = not (sentence or direction)
    record = finding.answer(ws, spec, name, query, about, in_words)
    show(record, as_json, search.as_text(record))


def _live(spec: PairSpec, sae: str) -> "Live":
    from core.features.measure import Live

    return Live(spec, sae)


def _studio(spec: PairSpec, sae: str) -> "Studio":
    from core.bench import open_pair
    from core.features.measure import stitch_of
    from core.steering.studio import Studio

    bench = open_pair(spec.key)
    return Studio(bench, stitch_of(bench.workspace, sae))


@features.command("show")
@guarded
def features_show_command(
    pair: PairArg,
    index: Annotated[int, typer.Argument(min=0, help="A feature.")],
    sae: SaeOfPairOpt = None,
    as_json: JsonFlag = False,
) -> None:
    """Print one feature: its measures, and the tokens it raises and lowers in A and, transferred,
    in B."""
    from core.features import tables as feature_tables

    ws = Workspace(get_pair(pair).key)
    sae = measured_sae(ws, sae)
    table = feature_tables.features(ws, sae)
    if index >= len(table):
        raise StitchLensError(
            f"feature {index}", f"0 to {len(table) - 1} of SAE {sae}", "choose one of these"
        )
    row = json.loads(table.iloc[index].to_json())
    logits = {
        s: feature_tables.feature_logits(ws, sae, s, index).to_dict("records") for s in ("a", "b")
    }
    lines = [f"{k:12} {v}" for k, v in row.items()]
    for side in ("a", "b"):
        for what, rows in (
            ("raises", [t for t in logits[side] if t["rank"] >= 0]),
            ("lowers", [t for t in logits[side] if t["rank"] < 0]),
        ):
            lines.append(f"{side.upper()} {what}: " + " ".join(repr(t["token"]) for t in rows))
    show(row | {"logits": logits}, as_json, "\n".join(lines))
