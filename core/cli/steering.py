"""The commands of `core.steering`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from core.errors import StitchLensError
from core.models.pairs import get_pair
from core.text.reading import clean
from core.workspace.store import Workspace

if TYPE_CHECKING:
    from core.bench import Bench
    from core.steering.studio import Studio
from core.cli.shared import (
    JsonFlag,
    PairArg,
    SaeOfPairOpt,
    SourceOpt,
    StitchArg,
    app,
    default_stitch,
    free_place,
    guarded,
    remove,
    show,
)
from core.steering.keys import lane_key
from core.steering.settings import USUAL, Sampling, Setting
from core.steering.sources import Feature, Source, source_from
from core.steering.tables import stitch_for


class _RunIsDefault(typer.core.TyperGroup):
    """`steer PAIR …` is `steer run PAIR …`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = not args or args[0] in self.commands or args[0].startswith("-")
        return super().parse_args(ctx, args if named else ["run", *args])


steer = typer.Typer(
    cls=_RunIsDefault,
    help="Generate under steering vectors of either model (4, Eq. 8-9).",
    no_args_is_help=True,
)


app.add_typer(steer, name="steer")


vector = typer.Typer(help="Steering vectors as files.", no_args_is_help=True)


app.add_typer(vector, name="vector")


def _studio(pair: str, stitch_name: str | None) -> "Studio":
    from core.bench import open_pair
    from core.steering.studio import Studio

    bench = open_pair(pair)
    return Studio(bench, stitch_name or default_stitch(bench.workspace))


def _carrying(pair: str, source: Source) -> str:
    """The stitch that fits a source."""
    return stitch_for(Workspace(get_pair(pair).key), source)


def _reading(done: int, of: int) -> None:
    print(f"\rreading {done} of {of} texts", end="", file=sys.stderr, flush=True)


def _searched(pair: str, sae: str | None, stitch_name: str | None) -> tuple["Bench", str, str]:
    """The pair, an SAE of it and a stitch that fits. Raises StitchLensError where there is none."""
    from core.bench import open_pair
    from core.features import tables as feature_tables

    bench = open_pair(pair)
    saes = feature_tables.saes(bench.workspace) if bench.workspace.exists else []
    if sae is None and not saes:
        raise StitchLensError(
            "no SAE whose features were measured",
            "one",
            f"run `python -m core features build {pair}`",
        )
    name = sae or saes[0]
    return bench, name, stitch_name or stitch_for(bench.workspace, Feature(name, 0))


def _numbers(text: str) -> list[int]:
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise StitchLensError(f"features '{text}'", "numbers, such as 3,17", "mend it")
    return [int(part) for part in text.split(",")]


def _span(text: str | None) -> tuple[int, int] | None:
    """`12` or `12-15`. Raises StitchLensError for anything else."""
    if text is None:
        return None
    first, _, last = text.partition("-")
    if not (first.isdecimal() and (last or first).isdecimal()):
        raise StitchLensError(
            f"layers '{text}'", "a layer or a range, such as 12 or 12-15", "mend it"
        )
    return int(first), int(last or first)


@steer.command("run")
@guarded
def steer_command(
    pair: PairArg,
    prompt: Annotated[str, typer.Option(help="What the models go on from.")],
    source: SourceOpt = "lang:fr",
    lanes: Annotated[
        str,
        typer.Option(
            help="SIDE:KIND joined by commas; kinds: none, own, transferred, random, shuffled."
        ),
    ] = "b:none,b:own,b:transferred",
    stitch_name: StitchArg = None,
    strength: Annotated[float, typer.Option(help="Multiplies c of Eq. 8; 1 is the paper's.")] = 1.0,
    operator: Annotated[str, typer.Option(help="clamp (Eq. 8-9) or add.")] = "clamp",
    layers_a: Annotated[
        str | None, typer.Option(help="Layers steered in A, as 20 or 20-23; the stitch's.")
    ] = None,
    layers_b: Annotated[
        str | None, typer.Option(help="Layers steered in B, as 12 or 12-15; the stitch's.")
    ] = None,
    output_only: Annotated[
        bool, typer.Option("--output-only", help="Leave the prompt's tokens alone.")
    ] = False,
    tokens: Annotated[
        int, typer.Option(min=1, max=1000, help="Most tokens written.")
    ] = USUAL.tokens,
    temperature: Annotated[
        float, typer.Option(min=0, max=5, help="0 takes the likeliest token.")
    ] = USUAL.temperature,
    top_p: Annotated[
        float, typer.Option(help="Share of the probability that is drawn from.")
    ] = USUAL.top_p,
    repetition: Annotated[
        float, typer.Option(min=0.5, max=3, help="Penalty on tokens that were used.")
    ] = USUAL.repetition,
    seed: Annotated[
        int, typer.Option(min=0, help="The same seed writes the same text.")
    ] = USUAL.seed,
    as_json: JsonFlag = False,
) -> None:
    """Let lanes of either model go on from a prompt; texts stream to the terminal one lane after
    the other."""
    from core.config import check
    from core.steering.studio import run_record

    named = source_from(source)
    studio = _studio(pair, stitch_name or _carrying(pair, named))
    setting = check(
        Setting,
        operator=operator,
        strength=strength,
        prompt=not output_only,
        layers_a=_span(layers_a),
        layers_b=_span(layers_b),
    )
    sampling = check(
        Sampling,
        tokens=tokens,
        temperature=temperature,
        top_p=top_p,
        repetition=repetition,
        seed=seed,
    )
    keys = [lane_key(text) for text in lanes.split(",")]
    prompt = clean(prompt)
    written = {}
    directions = studio.directions(named, _reading)
    for written in studio.run(directions, keys, prompt, setting, sampling):
        print(
            f"\r{max(len(w.ids) for w in written.values())} tokens",
            end="",
            file=sys.stderr,
            flush=True,
        )
    print(file=sys.stderr)
    judged = studio.judge(prompt, written)
    record = run_record(studio, named, prompt, setting, sampling, written, judged)
    lines = []
    for lane in record["lanes"]:
        said = f"{lane['language'] or '?'} {lane['probability']:.2f}, {lane['loss']:.2f} nats/token"
        lines += [
            f"[{lane['lane']}] {said}, {lane['repetition']:.0%} repeated",
            f"{prompt}{lane['text']}",
            "",
        ]
    show(record, as_json, "\n".join(lines))


@steer.command("levels")
@guarded
def steer_levels_command(
    pair: PairArg,
    sae: SaeOfPairOpt = None,
    stitch_name: StitchArg = None,
    only: Annotated[
        str | None, typer.Option(help="Features, such as 3,17; all of them if not given.")
    ] = None,
) -> None:
    """Measure how far each feature pushes, so that steering by one begins at once.

    Reads the contexts of all features once (minutes to an hour); without it those of one feature
    are read when it is first steered by. A killed run goes on where it was.
    """
    from core.steering import levels

    bench, name, stitch = _searched(pair, sae, stitch_name)
    features = None if only is None else _numbers(only)
    table = levels.measure(bench, name, stitch, features)
    print(f"Levels of {table.feature.nunique():,} features of {name} through {stitch}.")


@steer.command("features")
@guarded
def steer_features_command(
    pair: PairArg,
    sae: SaeOfPairOpt = None,
    stitch_name: StitchArg = None,
    candidates: Annotated[
        int, typer.Option(min=1, max=500, help="Features tried, the likeliest first.")
    ] = 24,
    prompts: Annotated[
        int, typer.Option(min=1, help="Prompts that the best of them are tried on.")
    ] = 6,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of a text of the best.")] = 32,
    as_json: JsonFlag = False,
) -> None:
    """Search for features of A whose steering shows in B; those that pass become presets.

    Candidates fire at the same places in both models, and a label in words says where. Few short
    texts choose the best dozen; more and longer ones, beside a random vector that pushes as far and
    the model as it is, tell which of these show. A killed run goes on where it was.
    """
    from core.steering import search
    from core.steering.curated import feature_presets, ranked

    bench, name, stitch = _searched(pair, sae, stitch_name)
    config = search.SearchConfig(candidates=candidates, judging=prompts, longer=tokens)
    table = search.search(bench, name, stitch, config)
    presets, best = feature_presets(bench.workspace), ranked(table)
    record = {"features": best.to_dict("records"), "presets": presets}
    lines = [f"{p['source']} at {p['strength']:g}: {p['watch']}" for p in presets]
    text = best.to_string(index=False, float_format=lambda x: f"{x:.2f}")
    show(record, as_json, "\n".join([text, "", *(lines or ["None passes."])]))


@vector.command("import")
@guarded
def vector_import_command(
    pair: PairArg,
    file: Annotated[
        Path,
        typer.Argument(
            help=(
                "Ours, a GGUF control vector, Neuronpedia's JSON, or a row (.npy, .pt,"
                " .safetensors)."
            )
        ),
    ],
    side: Annotated[
        str | None, typer.Option(help="a or b, where the file does not say its model.")
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(
            help="It acts before this layer, where the file does not say so or has several."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name in the workspace; the file's by default.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Bring a steering vector: it is checked (report card) and kept as source vector:NAME."""
    from core.bench import open_pair
    from core.steering import card as steering_card
    from core.workspace.artifacts import name_from

    if side not in (None, "a", "b"):
        raise StitchLensError(f"side '{side}'", "a or b", "choose one")
    bench = open_pair(pair)
    name = name or name_from(file.name)
    card = steering_card.import_vector(bench, file, name, side, layer)  # type: ignore[arg-type]
    show(card | {"name": name}, as_json, steering_card.as_text(name, card))


@vector.command("remove")
@guarded
def vector_remove_command(
    pair: PairArg, name: Annotated[str, typer.Argument(help="A vector that was brought.")]
) -> None:
    """Take a steering vector and its report card out of the workspace."""
    remove(pair, "vectors", name)


@vector.command("export")
@guarded
def vector_export_command(
    pair: PairArg,
    out: Annotated[
        Path,
        typer.Option(help="A new file; its ending is the format: .safetensors, .gguf or .json."),
    ],
    source: SourceOpt = "lang:fr",
    lane: Annotated[
        str, typer.Option(help="Whose vector: SIDE:KIND, such as b:transferred or a:own.")
    ] = "b:transferred",
    stitch_name: StitchArg = None,
    layer: Annotated[
        int | None, typer.Option(help="Layer it acts before; the stitch's if not given.")
    ] = None,
) -> None:
    """Write a steering vector: safetensors (ours), a GGUF control vector (llama.cpp), or
    Neuronpedia's JSON."""
    from core.steering.files import export

    studio = _studio(pair, stitch_name)
    span = None if layer is None else (layer, layer)
    key = lane_key(lane)
    directions = studio.directions(source_from(source))
    vectors = studio.vectors(directions, key, Setting(layers_a=span, layers_b=span))
    if not vectors:
        raise StitchLensError(f"lane '{lane}'", "one with a vector", "such as b:transferred")
    free_place(out)
    export(vectors[0], studio.spec(key.side), f"{source} {lane}", out)
    print(f"{lane} of {source}, before layer {vectors[0].layer}: {out}")
