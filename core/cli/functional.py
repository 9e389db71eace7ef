"""The commands of `core.functional`."""

from typing import Annotated

import typer
import typer.core

from core.cli.shared import JsonFlag, PairArg, app, guarded, show
from core.functional.tables import as_text

functional = typer.Typer(
    help="Features by what they do: entropy, attention deactivation (5.2).", no_args_is_help=True
)


app.add_typer(functional, name="functional")


@functional.command("scan")
@guarded
def functional_scan_command(
    pair: PairArg,
    sae: Annotated[
        str | None,
        typer.Option(help="An SAE whose features were measured; the first if not given."),
    ] = None,
    documents: Annotated[
        int, typer.Option(min=1, help="Held-out documents in which features are looked for.")
    ] = 320,
    candidates: Annotated[
        int, typer.Option(min=1, help="Of each kind; as many random features beside them.")
    ] = 12,
    each: Annotated[int, typer.Option(min=1, help="Documents in which a feature is ablated.")] = 8,
    as_json: JsonFlag = False,
) -> None:
    """Find entropy and attention-deactivation features, ablate them, and keep the tables of the
    page (Fig. 5, 16)."""
    from core.bench import open_pair
    from core.features import tables as feature_tables
    from core.functional import measure as functional_measure
    from core.functional import sides as functional_sides
    from core.functional import tables as functional_tables

    bench = open_pair(pair)
    name = sae or next(iter(feature_tables.saes(bench.workspace)), "")
    functional_measure.scan(
        bench,
        name,
        functional_sides.ScanConfig(
            documents=documents,
            features=candidates,
            each=each,
        ),
    )
    found = functional_tables.summary(bench.workspace, name)
    show(found, as_json, as_text(found))


@functional.command("entropy")
@guarded
def functional_entropy_command(
    pair: PairArg,
    side: Annotated[str | None, typer.Option(help="The model: a or b; both if not given.")] = None,
    layer: Annotated[
        int | None,
        typer.Option(
            help="The SAE reads before this layer (with --side); the last three of a deep model if"
            " not given, the last one of a shallow one."
        ),
    ] = None,
    width: Annotated[int, typer.Option(min=8, help="Features of the SAE.")] = 1024,
    k: Annotated[int, typer.Option(min=1, help="Features active at once.")] = 32,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 2e-3,
    positions: Annotated[
        int, typer.Option(min=1, help="Rows of the fit split that the SAE is trained on.")
    ] = 200_000,
    documents: Annotated[
        int, typer.Option(min=16, help="Held-out documents in which features are looked for.")
    ] = 240,
    as_json: JsonFlag = False,
) -> None:
    """Train SAEs of the last layers and look for entropy features: those whose effect on the
    entropy vanishes once the final norm's scale is frozen (Fig. 5a). Planted ones say how large one
    must be to be seen.

    The SAE is kept in your cache, not in the workspace: the same command makes it again.
    """
    from core.bench import open_pair
    from core.config import check
    from core.functional import last, last_tables

    bench = open_pair(pair)
    config = check(
        last.LastConfig,
        "see `python -m core functional entropy --help`",
        width=width,
        k=k,
        epochs=epochs,
        lr=lr,
        positions=positions,
        documents=documents,
    )
    layers = last.chosen_layers(bench.pair, side, layer)
    names = [last.measure(bench, *one, config) for one in layers]
    found = {name: last_tables.summary(bench.workspace, name) for name in names}
    show(found, as_json, last_tables.as_text(found))
