"""The commands of `core.stitches`."""

from pathlib import Path
from typing import Annotated

import typer
import typer.core

from core.cli.scale import ShardOpt, build_share, own_shard
from core.cli.shared import JsonFlag, PairArg, app, default_stitch, guarded, remove, show
from core.config import POSITIONS, BuildConfig, check
from core.errors import StitchLensError
from core.models.pairs import LayerPair, get_pair
from core.stitches.settings import CeilingConfig, FitConfig, RefineConfig, SinkConfig
from core.stitches.tables import as_text, default_name
from core.workspace.artifacts import check_spelling
from core.workspace.store import Workspace, has

BUILD, FIT, REFINE = BuildConfig(), FitConfig(), RefineConfig()
CEILING, SINK = CeilingConfig(), SinkConfig()
"""What is asked for where nothing is said."""

stitch = typer.Typer(help="Fit, evaluate and remove stitches (Eq. 1-3).", no_args_is_help=True)


app.add_typer(stitch, name="stitch")


@app.command("build")
@guarded
def build_command(
    pair: PairArg,
    tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of B scored on the held-out split for Table 1.")
    ] = BUILD.held_out_tokens,
    select_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of B scored for each setting.")
    ] = BUILD.select_tokens,
    positions: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Pairs of positions to fit on, 0 for all of the text; by default as the workspace"
            f" was built, and {POSITIONS:,} for a new one.",
        ),
    ] = None,
    svcca_positions: Annotated[
        int, typer.Option(min=1, help="Paired positions to compare layers over.")
    ] = BUILD.svcca_positions,
    shard: ShardOpt = None,
) -> None:
    """Build a pair's whole workspace: SVCCA, metric study, alpha sweep, stitches, Table 1. A killed
    build goes on. With --shard, read one share of its text (see `merge`)."""
    from core.stitches import measure as stitch_measure

    spec = get_pair(pair)
    share = own_shard(shard)
    config = BuildConfig(
        held_out_tokens=tokens,
        select_tokens=select_tokens,
        positions=stitch_measure.positions_to_fit(Workspace(spec.key), positions),
        svcca_positions=svcca_positions,
    )
    if share:
        build_share(spec, config, share)
        return

    workspace = stitch_measure.build(spec, config)
    print(f"Built {workspace.root.name}: {', '.join(workspace.names())}")


@app.command("svcca")
@guarded
def svcca_command(
    pair: PairArg,
    positions: Annotated[
        int, typer.Option(min=1, help="Paired positions to compare over.")
    ] = BUILD.svcca_positions,
    as_json: JsonFlag = False,
) -> None:
    """Score every layer of A against every layer of B (Fig. 6) and keep the table in the
    workspace."""
    from core.bench import open_pair
    from core.stitches import measure as stitch_measure

    bench = open_pair(pair, BuildConfig(svcca_positions=positions))
    table = stitch_measure.measure_svcca(bench)
    wide = table.pivot_table(
        index="layer_a",
        columns="layer_b",
        values="svcca",
    )
    show({"svcca": table.to_dict("records")}, as_json, wide.round(2).to_string())


@stitch.command("fit")
@guarded
def fit_command(
    pair: PairArg,
    layer_a: Annotated[int, typer.Option(help="Residual stream before this layer of A.")],
    layer_b: Annotated[int, typer.Option(help="Residual stream before this layer of B.")],
    method: Annotated[
        str, typer.Option(help="exact (Eq. 3 from moments), adam (the paper's recipe) or lstsq.")
    ] = FIT.method,
    metric: Annotated[
        str, typer.Option(help="Where Eq. 3 measures errors: raw (the paper), rms, std or whiten.")
    ] = FIT.metric,
    alpha: Annotated[
        float, typer.Option(help="Strength of inversion, α of Eq. 3; the paper uses 1.")
    ] = FIT.alpha,
    positions: Annotated[
        int, typer.Option(min=0, help="Pairs of positions to fit on; 0 for all of the text.")
    ] = POSITIONS,
    lr: Annotated[float, typer.Option(help="adam: learning rate.")] = FIT.lr,
    epochs: Annotated[int, typer.Option(help="adam: passes over the data.")] = FIT.epochs,
    tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of B scored on the held-out split for Table 1.")
    ] = BUILD.held_out_tokens,
    name: Annotated[
        str | None, typer.Option(help="Name in the workspace; made from the settings by default.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Fit a stitch, measure it on the held-out split and keep it in the workspace."""
    from core.bench import open_pair
    from core.report import report
    from core.stitches import measure as stitch_measure

    spec = get_pair(pair)
    config = check(
        FitConfig,
        "see `python -m core stitch fit --help`",
        method=method,
        metric=metric,
        alpha=alpha,
        lr=lr,
        epochs=epochs,
    )
    layers = LayerPair(
        a=max(layer_a, 0),
        b=max(layer_b, 0),
        why="chosen by hand",
    )
    spec.check_layers(layer_a, layer_b)
    bench = open_pair(pair, BuildConfig(held_out_tokens=tokens))
    name = name or default_name(layers, config, positions or None)
    stitch_measure.fit_stitch(bench, name, layers, config, positions or None)
    if not has(bench.workspace, "pair"):  # a pair that was never built
        stitch_measure.describe_pair(bench)
    found = report(spec)["stitches"][name]
    show(found | {"name": name}, as_json, as_text(name, found))


@stitch.command("eval")
@guarded
def eval_command(
    pair: PairArg,
    name: Annotated[str, typer.Argument(help="A stitch of the workspace.")],
    tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of B scored on the held-out split.")
    ] = BUILD.held_out_tokens,
    as_json: JsonFlag = False,
) -> None:
    """Measure a stitch of the workspace again: Table 1 with controls, on more or fewer tokens."""
    from core.bench import open_pair
    from core.report import report
    from core.stitches import measure as stitch_measure

    spec = get_pair(pair)
    stitch_measure.evaluate_stitch(open_pair(pair, BuildConfig(held_out_tokens=tokens)), name)
    found = report(spec)["stitches"][name]
    show(found | {"name": name}, as_json, as_text(name, found))


@stitch.command("sink")
@guarded
def sink_command(
    pair: PairArg,
    name: Annotated[
        str | None,
        typer.Argument(help="A stitch of the workspace; the default one if not given."),
    ] = None,
    documents: Annotated[
        int, typer.Option(help="Texts of the fit split whose sinks are read.")
    ] = SINK.documents,
    rank: Annotated[int, typer.Option(help="The most that the affine remainder has.")] = SINK.rank,
    ridge: Annotated[
        float, typer.Option(help="Its penalty, a share of the variance of sink rows.")
    ] = SINK.ridge,
    read: Annotated[
        int, typer.Option(help="Held-out texts in which attention is measured.")
    ] = SINK.read,
    tokens: Annotated[
        int, typer.Option(help="Tokens of B scored on the held-out split.")
    ] = SINK.tokens,
    prompts: Annotated[
        int, typer.Option(min=2, max=1000, help="Beginnings that are gone on from.")
    ] = 16,
    length: Annotated[int, typer.Option(min=1, max=1000, help="Tokens of each text.")] = 40,
    as_json: JsonFlag = False,
) -> None:
    """Give first tokens and massive activations a map of their own, and measure whether the sink
    crosses: its place in the null space, attention to it, losses, what is written. The stitch
    itself stays as it is."""
    from core.bench import open_pair
    from core.functional import sink_tables, sinks
    from core.steering import sink_speech

    config = check(
        SinkConfig,
        "see `python -m core stitch sink --help`",
        documents=documents,
        rank=rank,
        ridge=ridge,
        read=read,
        tokens=tokens,
    )
    bench = open_pair(get_pair(pair).key)
    name = name or default_stitch(bench.workspace)
    sinks.measure(bench, name, config)
    sink_speech.write(bench, name, sink_speech.SpeechConfig(prompts=prompts, length=length))
    found = sink_tables.summary(bench.workspace, name)
    show(found | {"name": name}, as_json, sink_tables.as_text(name, found))


@stitch.command("refine")
@guarded
def refine_command(
    pair: PairArg,
    of: Annotated[str, typer.Argument(help="A fitted stitch of the workspace.")],
    name: Annotated[
        str | None,
        typer.Option("--as", help="Its name; made from the stitch and the objective by default."),
    ] = None,
    objective: Annotated[
        str,
        typer.Option(
            help="kl (to the model's own predictions), features (its last stream after the final"
            " norm, no logits) or loss (next token)."
        ),
    ] = REFINE.objective,
    tokens: Annotated[int, typer.Option(help="Tokens of B to train on.")] = REFINE.tokens,
    kinds: Annotated[
        str, typer.Option(help="Kinds of text to train on, with commas between; '' for all.")
    ] = ",".join(REFINE.kinds),
    inversion: Annotated[
        float, typer.Option(help="Weight of the inversion terms of Eq. 3.")
    ] = REFINE.inversion,
    rounds: Annotated[
        float, typer.Option(help="Weight of the objective after a round trip.")
    ] = REFINE.round_trips,
    lr: Annotated[float, typer.Option(help="Adam's, in units of the maps' own size.")] = REFINE.lr,
    batch: Annotated[int, typer.Option(help="Tokens of B a step.")] = REFINE.batch,
    seed: Annotated[int, typer.Option(help="Of the order of texts.")] = REFINE.seed,
    held_out: Annotated[
        int, typer.Option(min=1, help="Tokens of B scored on the held-out split for Table 1.")
    ] = BUILD.held_out_tokens,
    positions: Annotated[
        int, typer.Option(min=1, help="Pairs of positions for the inversion terms.")
    ] = REFINE.positions,
    controls: Annotated[
        bool, typer.Option(help="Also train the controls: shuffled pairs, a constant input.")
    ] = True,
    price: Annotated[
        bool, typer.Option(help="Also measure what the features of an SAE of A pay.")
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Train a fitted stitch a little on what the models that read it predict, with controls, and
    measure what it gains and what it costs. A killed run goes on."""
    from core.bench import open_pair
    from core.features import price as feature_price
    from core.stitches import refined_tables
    from core.stitches.refined import refine_stitch, refined_name

    get_pair(pair)
    config = check(
        RefineConfig,
        "see `python -m core stitch refine --help`",
        objective=objective,
        tokens=tokens,
        kinds=tuple(kind.strip() for kind in kinds.split(",") if kind.strip()),
        inversion=inversion,
        round_trips=rounds,
        lr=lr,
        batch=batch,
        positions=positions,
        seed=seed,
    )
    name = name or refined_name(of, config)
    check_spelling(name)
    bench = open_pair(pair, BuildConfig(held_out_tokens=held_out))
    refine_stitch(bench, of, name, config, controls)
    if price:
        feature_price.price(bench, of, name)
    measured = refined_tables.record(bench.workspace, name)
    show(measured | {"name": name}, as_json, refined_tables.as_text(name, measured))


@stitch.command("ceiling")
@guarded
def ceiling_command(
    pair: PairArg,
    name: Annotated[str, typer.Argument(help="A refined stitch of the workspace.")],
    hidden: Annotated[int, typer.Option(help="Units of the hidden layer.")] = CEILING.hidden,
    positions: Annotated[
        int, typer.Option(help="Pairs of positions that it is fitted on.")
    ] = CEILING.positions,
    epochs: Annotated[int, typer.Option(help="How often it goes through them.")] = CEILING.epochs,
    lr: Annotated[float, typer.Option(help="Adam's.")] = CEILING.lr,
    batch: Annotated[int, typer.Option(help="Pairs of positions a step.")] = CEILING.batch,
    seed: Annotated[int, typer.Option(help="Of its first weights and the order.")] = CEILING.seed,
    held_out: Annotated[
        int, typer.Option(min=1, help="Tokens of B scored on the held-out split.")
    ] = BUILD.held_out_tokens,
    as_json: JsonFlag = False,
) -> None:
    """How much of what a refined stitch leaves over is for being affine: the same ways with one
    hidden layer, by squared error and then refined like it. A killed run goes on."""
    from core.bench import open_pair
    from core.stitches import refined_tables
    from core.stitches.ceiling import Ceiling

    get_pair(pair)
    config = check(
        CeilingConfig,
        "see `python -m core stitch ceiling --help`",
        hidden=hidden,
        positions=positions,
        epochs=epochs,
        lr=lr,
        batch=batch,
        seed=seed,
    )
    bench = open_pair(pair, BuildConfig(held_out_tokens=held_out))
    Ceiling(bench, name, config).measure()
    measured = refined_tables.record(bench.workspace, name)
    show(measured | {"name": name}, as_json, refined_tables.as_text(name, measured))


@stitch.command("import")
@guarded
def import_command(
    pair: PairArg,
    file: Annotated[
        Path, typer.Argument(help="safetensors, a state_dict or .npz: docs/bring-your-own.md.")
    ],
    layer_a: Annotated[int, typer.Option(help="It was trained before this layer of A.")],
    layer_b: Annotated[int, typer.Option(help="It was trained before this layer of B.")],
    name: Annotated[
        str | None, typer.Option(help="Name in the workspace; the file's by default.")
    ] = None,
    orientation: Annotated[
        str | None,
        typer.Option(help="Only for equal widths: linear ([out, in]) or paper ([in, out])."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Bring a stitch that you trained: it is recognised, measured (report card) and kept."""
    from core.bench import open_pair
    from core.stitches import card as stitch_card

    spec = get_pair(pair)
    spec.check_layers(layer_a, layer_b)
    if orientation not in (None, "linear", "paper"):
        raise StitchLensError(f"orientation '{orientation}'", "linear or paper", "choose one")
    bench = open_pair(pair)
    name = name or file.stem
    layers = LayerPair(
        a=layer_a,
        b=layer_b,
        why="imported",
    )
    card = stitch_card.import_stitch(bench, file, layers, name, orientation)  # type: ignore[arg-type]
    show(card | {"name": name}, as_json, stitch_card.as_text(name, card))


@stitch.command("remove")
@guarded
def remove_command(
    pair: PairArg, name: Annotated[str, typer.Argument(help="A stitch of the workspace.")]
) -> None:
    """Take a stitch and its measurements out of the workspace."""
    remove(pair, "stitches", name)
