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


@functional.callback()
def functional_group() -> None:
    """A group of one command so far."""


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
