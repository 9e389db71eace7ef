"""The commands `export …`: what was measured, in the layouts of others."""

from pathlib import Path
from typing import Annotated

import typer

from core.cli.shared import PairArg, app, guarded
from core.errors import StitchLensError
from core.features.neuronpedia import CREATOR

exports = typer.Typer(help="What was measured, in the layouts of others.", no_args_is_help=True)


app.add_typer(exports, name="export")


@exports.command("neuronpedia")
@guarded
def export_neuronpedia_command(
    pair: PairArg,
    sae: Annotated[str, typer.Argument(help="An SAE whose features were measured.")],
    out: Annotated[Path, typer.Option(help="A folder that is not there yet.")],
    creator: Annotated[
        str,
        typer.Option(help="The id of the user, in that Neuronpedia, whose data it is to be."),
    ] = CREATOR,
    force: Annotated[
        bool,
        typer.Option("--force", help="Write an export that is there already again."),
    ] = False,
) -> None:
    """Write an SAE's features, and what became of them in B, as a Neuronpedia of your own imports
    them: features with their vectors, contexts, and labels as explanations."""
    from core.bench import open_pair
    from core.features import neuronpedia
    from core.features import tables as feature_tables
    from core.features.measure import stitch_of
    from core.saes.crossing import Crossing
    from core.workspace.places import named

    bench = open_pair(pair)
    ws = bench.workspace
    place = named(str(out))
    neuronpedia.check_place(place, force)
    names = feature_tables.saes(ws)
    if sae not in names:
        raise StitchLensError(f"SAE '{sae}'", f"one of {', '.join(names)}", "choose one")

    crossing = Crossing(bench, sae, stitch_of(ws, sae))
    counts = neuronpedia.export(
        ws,
        bench.pair,
        sae,
        place,
        vectors={
            "a": crossing.sae.W_dec.detach().float().numpy(),
            "b": crossing.transferred.W_dec.detach().float().numpy(),
        },
        layers={"a": crossing.layers.a, "b": crossing.layers.b},
        texts=feature_tables.texts(bench.pair.corpus),
        creator=creator,
        force=force,
    )
    for source, rows in counts.items():
        print(f"{source}: " + ", ".join(f"{count:,} {name}" for name, count in rows.items()))
    print(f"Left out: {'; '.join(neuronpedia.LEFT_OUT)}.")
    print("It holds passages of the corpus: mind their terms before you publish it.")
