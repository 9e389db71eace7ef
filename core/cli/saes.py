"""The commands of `core.saes`."""

from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from core.cli.scale import show_once
from core.cli.shared import (
    JsonFlag,
    PairArg,
    SaeArg,
    SaeLayerOpt,
    ScaleOpt,
    StitchArg,
    app,
    default_stitch,
    free_place,
    guarded,
    listed,
    remove,
    say_of,
    show,
)
from core.errors import StitchLensError
from core.saes.settings import ExploreConfig, StartStudy, TrainingSet

sae_app = typer.Typer(
    help="Carry sparse autoencoders through a stitch (Eq. 6).", no_args_is_help=True
)


app.add_typer(sae_app, name="sae")

RUNS = TrainingSet()
STUDIED = StartStudy()
MEASURED = ExploreConfig()
"""What the options say that are not given."""


@sae_app.command("transfer")
@guarded
def sae_transfer_command(
    pair: PairArg,
    sae: SaeArg,
    out: Annotated[
        Path, typer.Option(help="Where the transferred SAE goes: a folder that is not there yet.")
    ],
    stitch_name: StitchArg = None,
    direction: Annotated[str, typer.Option(help="up: from A to B; down: from B to A.")] = "up",
    layer: SaeLayerOpt = None,
    scale: ScaleOpt = None,
) -> None:
    """Carry an SAE of A (down: of B) through a stitch (Eq. 6) into an ordinary SAELens folder."""
    from core.bench import open_pair
    from core.saes.sae import sae_of
    from core.stitches.stitch import load_stitch
    from core.stitches.transfer import save_sae, transfer_sae

    bench = open_pair(pair)
    ws = bench.workspace
    if direction not in ("up", "down"):
        raise StitchLensError(f"direction '{direction}'", "up or down", "choose one")
    free_place(out)
    chosen = stitch_name or default_stitch(ws)
    makers = ws.entry(f"stitches/{chosen}").makers
    side, to = ("a", "b") if direction == "up" else ("b", "a")
    opened, _ = sae_of(bench, sae, side, layer, makers[f"layer_{side}"], scale)  # type: ignore[arg-type]
    say_of(opened.cfg.metadata)
    target = f"layer_{to}"
    provenance = {
        "model_name": makers[to]["model"],
        "hook_name": f"blocks.{makers[target]}.hook_resid_pre",
        "transferred_from": sae.rstrip("/").split("/")[-1],
        "stitch": chosen,
        "stitch_makers": makers,
    }
    stitched = load_stitch(ws.path(f"stitches/{chosen}"))
    moved = transfer_sae(opened, stitched, "up" if direction == "up" else "down", None, provenance)
    save_sae(moved, out)
    print(f"SAE for {makers[to]['model']} before layer {makers[target]}: {out}")


@sae_app.command("import")
@guarded
def sae_import_command(
    pair: PairArg,
    sae: Annotated[
        str,
        typer.Argument(
            help="A zip or folder (SAELens, sparsify), RELEASE:ID, or hub:OWNER/NAME/FOLDER."
        ),
    ],
    layer: Annotated[
        int | None, typer.Option(help="It reads before this layer of A, where it does not say so.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name in the workspace; the file's by default.")
    ] = None,
    stitch_name: StitchArg = None,
    scale: ScaleOpt = None,
    as_json: JsonFlag = False,
) -> None:
    """Bring an SAE of A that you trained: it is checked, measured (report card, Table 2) and
    kept."""
    from core.bench import open_pair
    from core.saes import card as sae_card

    bench = open_pair(pair)
    name, card = sae_card.import_sae(bench, sae, layer, name, stitch_name, scale)
    show(card | {"name": name}, as_json, sae_card.as_text(name, card))


@sae_app.command("remove")
@guarded
def sae_remove_command(
    pair: PairArg, name: Annotated[str, typer.Argument(help="An SAE of the workspace.")]
) -> None:
    """Take an SAE and what was measured of it out of the workspace."""
    remove(pair, "saes", name)


@sae_app.command("train")
@guarded
def sae_train_command(
    pair: PairArg,
    widths: Annotated[
        str | None,
        typer.Option(
            help="Features of the SAEs, such as 1024,4096; 1024 to 8192 in doublings if not given."
        ),
    ] = None,
    starts: Annotated[
        str | None,
        typer.Option(
            help="scratch, transferred, random stitch, shuffled stitch, with commas; all of them."
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            min=1,
            max=50,
            help="Runs from scratch and from transfer, each width.",
        ),
    ] = RUNS.seeds,
    auxiliary: Annotated[
        float,
        typer.Option(
            min=0, help="Coefficient of the further runs with an auxiliary loss; 0 makes none."
        ),
    ] = RUNS.auxiliary,
    positions: Annotated[
        int, typer.Option(min=1, help="Rows of B that each run sees once.")
    ] = RUNS.positions,
    stitch_positions: Annotated[
        int, typer.Option(min=1, help="Pairs of positions the stitch learns from.")
    ] = RUNS.stitch_positions,
    lr: Annotated[float, typer.Option(help="Learning rate, constant as in the paper.")] = RUNS.lr,
    batch: Annotated[int, typer.Option(min=1, help="Rows of one step.")] = RUNS.batch,
    sae: Annotated[
        str | None,
        typer.Option(help="An SAE of A in the workspace; the Features page's if not given."),
    ] = None,
    stitch_name: StitchArg = None,
    name: Annotated[str, typer.Option(help="Of the set of runs; the layers if not given.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Train SAEs of B from scratch, from A's SAE carried over, and from two controls (Fig. 1c, 2,
    8; Tables 3, 4).

    A killed run goes on where it was. Start the same command several times, by torchrun or as a
    SLURM array, to have processes share the runs (see `launch`).
    """
    from core.bench import open_pair
    from core.probes.prober import default_names
    from core.saes import measure as sae_measure
    from core.saes import settings as sae_settings
    from core.saes import tables as sae_tables

    bench = open_pair(pair)
    usual = default_names(bench)
    given: dict[str, Any] = {
        "seeds": seeds,
        "auxiliary": auxiliary,
        "positions": positions,
        "stitch_positions": stitch_positions,
        "lr": lr,
        "batch": batch,
    }
    if widths:
        given["widths"] = sae_settings.parsed_widths(widths)
    if starts:
        given["starts"] = listed(starts)
    config = sae_settings.training_set(given)
    training = sae_measure.SaeTraining(
        bench, sae or usual[0], stitch_name or usual[1], config, name
    )
    made = sae_measure.evaluate(training)
    found = sae_tables.record(bench.workspace, made)
    show_once(found, as_json, sae_tables.as_text(made, found))


@sae_app.command("starts")
@guarded
def sae_starts_command(
    pair: PairArg,
    stitch_name: Annotated[
        str | None,
        typer.Option("--stitch", help="One whose layers are taken; that of the SAE."),
    ] = None,
    kinds: Annotated[
        str | None,
        typer.Option(help="Kinds of text to train on, such as English,code; all if not given."),
    ] = None,
    sae: Annotated[
        str | None,
        typer.Option(
            help="An SAE of A in the workspace whose settings all have; the Features page's."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Passes in which A's SAE is trained; as that SAE if not given."),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=50, help="Runs at the learning rate that suits a start.")
    ] = STUDIED.seeds,
    rates: Annotated[
        str | None,
        typer.Option(help="Learning rates that each start chooses from, such as 0.002,0.004."),
    ] = None,
    positions: Annotated[
        int, typer.Option(min=1, help="Rows of B that each run sees once.")
    ] = STUDIED.positions,
    pairs: Annotated[
        int, typer.Option(min=1, help="Paired positions that starts are made from.")
    ] = STUDIED.pairs,
    batch: Annotated[int, typer.Option(min=1, help="Rows of one step.")] = STUDIED.batch,
    as_json: JsonFlag = False,
) -> None:
    """Find the start that saves most of an SAE's training: Eq. 6 alone, an encoder and a decoder
    fitted to paired text, fresh features for what disagrees, balanced norms, an auxiliary loss;
    each alone and together, against scratch at its best.

    Ratios are of FLOPs to 50, 70, 90 and 99 % of what scratch explains in the end, the start
    included. A killed run goes on where it was. Start the same command several times, by torchrun
    or as a SLURM array, to have processes share the runs (see `launch`).
    """
    from core.bench import open_pair
    from core.probes.prober import default_names
    from core.saes import settings as sae_settings
    from core.saes import start_study, start_tables

    bench = open_pair(pair)
    usual = default_names(bench)
    given: dict[str, Any] = {
        "kinds": listed(kinds),
        "seeds": seeds,
        "positions": positions,
        "pairs": pairs,
        "batch": batch,
    }
    if rates:
        given["rates"] = list(dict.fromkeys(listed(rates)))
    study = sae_settings.start_study(given)
    starts = start_study.Starts(bench, sae or usual[0], stitch_name or usual[1], study, epochs)
    made = start_study.evaluate(starts)
    found = start_tables.record(bench.workspace, made)
    show_once(found, as_json, start_tables.as_text(made, found))


@sae_app.command("eval")
@guarded
def sae_eval_command(
    pair: PairArg,
    sae: SaeArg,
    stitch_name: StitchArg = None,
    tokens: Annotated[
        int, typer.Option(min=1, help="Tokens of B scored for the losses.")
    ] = MEASURED.tokens,
    positions: Annotated[
        int, typer.Option(min=1, help="Paired positions for the reconstruction.")
    ] = MEASURED.reconstruction_positions,
    layer: SaeLayerOpt = None,
    scale: ScaleOpt = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure an SAE of A, its transfer and their controls on the held-out split (Table 2); nothing
    is kept."""
    from core.bench import open_pair
    from core.saes.crossing import Crossing, zero_shot
    from core.saes.sae import sae_of

    bench = open_pair(pair)
    ws = bench.workspace
    chosen = stitch_name or default_stitch(ws)
    makers = ws.entry(f"stitches/{chosen}").makers
    opened, _ = sae_of(bench, sae, "a", layer, makers["layer_a"], scale)
    say_of(opened.cfg.metadata)
    crossing = Crossing(bench, opened, chosen)
    config = ExploreConfig(tokens=tokens, reconstruction_positions=positions)
    table = zero_shot(crossing, crossing.variants(), config)
    text = table.set_index("name").T.to_string(float_format=lambda x: f"{x:.4g}")
    show(
        {
            "sae": sae,
            "stitch": chosen,
            "variants": table.to_dict("records"),
        },
        as_json,
        text,
    )
