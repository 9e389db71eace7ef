"""The commands `features explanations` and `features explain`: what others say of features."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.cli.features import features
from core.cli.shared import PairArg, SaeOfPairOpt, guarded
from core.errors import StitchLensError
from core.models.pairs import SIDES, PairSpec, get_pair
from core.steering.finding import measured_sae
from core.workspace import demonstration
from core.workspace.store import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from core.bench import Bench
    from core.features.chat import Asker
    from core.features.explain import Plan
    from core.features.passages import Pool
    from core.models.pairs import Side

PRINTED = 2_000
"""Letters of a question that are printed."""


@features.command("explanations")
@guarded
def features_explanations_command(
    pair: PairArg,
    sae: Annotated[str, typer.Argument(help="An SAE whose features were measured.")],
    files: Annotated[
        list[Path],
        typer.Argument(help="Explanations of Neuronpedia's export: .jsonl or .jsonl.gz."),
    ],
    known_as: Annotated[
        str | None,
        typer.Option("--of", help="MODEL/SOURCE: what the files call this SAE."),
    ] = None,
) -> None:
    """Bring explanations of an SAE's features from Neuronpedia's exports: shown under our labels,
    found by a search. All files of a source at once: what it said before is replaced."""
    from core.features.explained import of_another
    from core.features.explanations import bring
    from core.features.neuronpedia import names_of
    from core.workspace.places import named

    spec = get_pair(pair)
    ws = Workspace(spec.key)
    sae = _measured(ws, sae)
    names = {known_as} if known_as else names_of(ws, spec, sae)
    replaced = of_another(ws, sae)
    brought = bring(ws, sae, [named(str(path)) for path in files], names)
    if replaced:
        print(
            f"They take the place of {replaced:,} of an SAE that had this name before.",
            file=sys.stderr,
        )
    for warning in brought.warnings:
        print(warning, file=sys.stderr)

    table = brought.table
    print(f"{len(table):,} explanations of {table.feature.nunique():,} features of SAE {sae}:")
    for source, rows in table.groupby("source"):
        print(f"  {source}: {len(rows):,}")
    print(
        "They are not scored here: whether a text tells where a feature fires, a model has to read."
    )


@features.command("explain")
@guarded
def features_explain_command(
    pair: PairArg,
    sae: SaeOfPairOpt = None,
    chosen: Annotated[
        str,
        typer.Option(
            "--features", help="How many, those first that a page shows first; or a list: 7,12."
        ),
    ] = "10",
    address: Annotated[
        str | None,
        typer.Option(help="An OpenAI-compatible chat address, such as http://localhost:8000/v1."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model's name there.")] = None,
    key_from: Annotated[
        str | None,
        typer.Option("--key-from-env", help="The environment variable that holds the key."),
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that an answer may take.")] = 120,
    send: Annotated[
        bool, typer.Option("--send", help="Send it. Without it, what would be sent is printed.")
    ] = False,
    local: Annotated[
        bool, typer.Option("--local", help="Ask the pair's own instruct model, on this machine.")
    ] = False,
) -> None:
    """Let a language model say why features fire, and score what it says on passages that it was
    not shown, in A and, carried over, in B. Nothing is sent without --address and --send."""
    from core.bench import open_pair
    from core.features import explain

    demonstration.refuse("an explainer")
    if local == bool(address):
        raise StitchLensError(
            "--local and --address" if local else "neither --address nor --local",
            "one of them",
            "name whom to ask: an OpenAI-compatible chat address, or --local",
        )

    spec = get_pair(pair)
    ws = Workspace(spec.key)
    name = _measured(ws, sae)
    every = explain.material(ws, name, explain.features_from(ws, name, chosen), spec.corpus)
    asked = explain.plan(every)
    bench = open_pair(spec.key)
    if local:
        from core.features.local import instruct_model

        asker: Asker = instruct_model(bench)
        print(f"{asker.title} is asked about {in_short(asked)}.", file=sys.stderr)
    else:
        asker = remote(address or "", model, key_from, timeout)
        if not send:
            print(preview(asked, address or "", str(model)))
            return
        print(f"Sending {in_short(asked)} to {asker.title}.", file=sys.stderr)

    outcome = explain.explain(ws, name, every, pools_of(bench, name), asker)
    print(as_text(outcome.table, spec))
    if outcome.without:
        listed = ", ".join(map(str, outcome.without))
        print(f"No usable answer about: {listed}.", file=sys.stderr)


def _measured(ws: Workspace, sae: str | None) -> str:
    """Raises StitchLensError for an SAE whose features were not measured."""
    from core.features import tables as feature_tables

    name = measured_sae(ws, sae)
    names = feature_tables.saes(ws)
    if name not in names:
        raise StitchLensError(f"SAE '{name}'", f"one of {', '.join(names)}", "choose one")
    return name


def remote(
    address: str,
    model: str | None,
    key_from: str | None,
    seconds: float,
) -> "Asker":
    """Raises StitchLensError where the model or the key is not named."""
    from core.features.chat import Remote

    if not model:
        raise StitchLensError("no --model", "the name of a model at that address", "give --model")
    key = os.environ.get(key_from, "").strip() if key_from else ""
    if key_from and not key:
        raise StitchLensError(
            f"no variable {key_from} in the environment",
            "one that holds the key",
            "set it, or leave --key-from-env out",
        )
    return Remote(address, model, key or None, seconds)


def in_short(asked: "Plan") -> str:
    return (
        f"{len(asked.features):,} features: {asked.requests:,} requests with about"
        f" {asked.characters:,} characters in all"
    )


def preview(
    asked: "Plan",
    address: str,
    model: str,
) -> str:
    """What would be sent, to whom, and how much."""
    from core.features.chat import endpoint

    features_named = ", ".join(map(str, asked.features[:20]))
    more = ", …" if len(asked.features) > 20 else ""
    question = "\n\n".join(f"{one['role']}: {one['content']}" for one in asked.first)
    cut = "" if len(question) <= PRINTED else f"… ({len(question):,} characters)\n"
    return (
        f"Nothing was sent. With --send, {endpoint(address)} (model {model}) gets passages of the"
        f" corpus:\n{in_short(asked)}.\nFeatures: {features_named}{more}\n"
        f"The end of the first question:\n\n{cut}{question[-PRINTED:]}"
    )


def pools_of(bench: "Bench", sae: str) -> "dict[Side, Pool]":
    """Passages in which features do not fire, of A, and of B where its contexts are there."""
    from core.features.measure import stitch_of
    from core.features.passages import draw_pool
    from core.saes.crossing import Crossing
    from core.workspace.store import has

    ws = bench.workspace
    crossing = Crossing(bench, sae, stitch_of(ws, sae))
    documents = [*bench.corpus.split("held-out"), *bench.corpus.split("select")]
    pools: dict[Side, Pool] = {}
    for side in SIDES:
        if not has(ws, f"examples_{side}/{sae}"):
            continue
        if side == "a":
            reader = (bench.a, bench.b, crossing.sae, crossing.layers.a)
        else:
            reader = (bench.b, bench.a, crossing.transferred, crossing.layers.b)
        pools[side] = draw_pool(*reader, documents)
    return pools


def as_text(table: "pd.DataFrame", spec: PairSpec) -> str:
    """Each explanation with its scores, and what those are worth."""
    lines = []
    for row in table.to_dict("records"):
        a, b = (f"{row[f'f1_{side}']:.2f}" if row[f"n_{side}"] else " -  " for side in SIDES)
        lines.append(f"{row['feature']:>6}  {a} → {b}  {row['text']}")
    medians = []
    for side, model in (("a", spec.a), ("b", spec.b)):
        scores = table[f"f1_{side}"].dropna()
        median = f"{scores.median():.2f}" if len(scores) else "none"
        medians.append(f"{model.title} {median} ({len(scores):,} scored)")
    lines.append(
        f"F1 on passages that the explainer was not shown, median: {'; '.join(medians)}."
        " A coin gets 0.50, who always says yes 0.67."
    )
    return "\n".join(lines)
