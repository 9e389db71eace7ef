"""The commands of `core.probes`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import typer.core

from core.errors import StitchLensError

if TYPE_CHECKING:
    from core.probes.prober import Prober
from core.cli.scale import show_once
from core.cli.shared import JsonFlag, PairArg, StitchArg, app, free_place, guarded, show
from core.probes.tables import as_text

probes_app = typer.Typer(
    help="Linear probes of one model on the other (4, Eq. 7).", no_args_is_help=True
)


app.add_typer(probes_app, name="probes")


def _prober(
    pair: str,
    sae: str | None,
    stitch_name: str | None,
    own_positions: int | None = None,
) -> "Prober":
    from core.bench import open_pair
    from core.probes.prober import Prober, default_names

    bench = open_pair(pair)
    usual = default_names(bench)
    return Prober(bench, sae or usual[0], stitch_name or usual[1], own_positions)


@probes_app.command("eval")
@guarded
def probes_eval_command(
    pair: PairArg,
    sae: Annotated[
        str | None,
        typer.Option(help="An SAE of A in the workspace; the Features page's if not given."),
    ] = None,
    stitch_name: StitchArg = None,
    absolute: Annotated[
        bool, typer.Option("--absolute", help="Choose features by size, as SAEBench does.")
    ] = False,
    saebench: Annotated[
        bool, typer.Option("--saebench", help="SAEBench's eight datasets from the hub.")
    ] = False,
    own_positions: Annotated[
        int | None,
        typer.Option(min=1, help="Rows to train B's own SAE on; as many as A's if not given."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure sparse and dense probes of both models on every task (Fig. 3a, 9, 10).

    A killed run goes on where it was. Start the same command several times, by torchrun or as a
    SLURM array, to have processes share the work (see `launch`).
    """
    from core.probes import measure as probe_measure
    from core.probes import tables as probe_tables
    from core.probes.methods import ProbeConfig
    from core.probes.saebench import saebench_datasets

    prober = _prober(pair, sae, stitch_name, own_positions)
    config = ProbeConfig(absolute=absolute)
    name = probe_measure.evaluate(prober, config, saebench_datasets() if saebench else None)
    found = probe_tables.record(prober.bench.workspace, name)
    show_once(found, as_json, as_text(name, found))


@probes_app.command("export")
@guarded
def probes_export_command(
    pair: PairArg,
    task: Annotated[
        str, typer.Option(help="DATASET/CLASS, such as language/fra; a wrong one lists them all.")
    ],
    out: Annotated[Path, typer.Option(help="A new folder for probe.safetensors and probe.json.")],
    side: Annotated[str, typer.Option(help="The model it reads: a or b.")] = "b",
    fitted: Annotated[
        str, typer.Option(help="The model it was fitted on: a (for b: carried over) or b.")
    ] = "a",
    k: Annotated[
        int,
        typer.Option(
            min=0,
            max=1000,
            help="SAE features it reads; 0 is a dense probe.",
        ),
    ] = 0,
    sae: Annotated[str | None, typer.Option(help="An SAE of A in the workspace.")] = None,
    stitch_name: StitchArg = None,
) -> None:
    """Write a probe that scikit-learn can be rebuilt from: safetensors and JSON, no pickle."""
    from core.probes.labels import task_probe
    from core.probes.probe import save_probe

    if side not in ("a", "b") or fitted not in ("a", "b"):
        raise StitchLensError(
            f"side '{side}' fitted on '{fitted}'", "a or b", "choose one of them for each"
        )
    free_place(out)
    probe = task_probe(_prober(pair, sae, stitch_name), task, side, k, fitted)  # type: ignore[arg-type]
    save_probe(probe, out)
    print(f"{task} for {probe.about['model']} at {probe.about['hook']}: {out}")


@probes_app.command("own")
@guarded
def probes_own_command(
    pair: PairArg,
    files: Annotated[
        list[Path],
        typer.Argument(
            help=(
                "A CSV with columns text and label (parted by commas, semicolons or tabs); or two"
                " files, one text a "
                "line: yes, then no."
            )
        ),
    ],
    positive: Annotated[
        str | None,
        typer.Option(
            help="The label that stands against all others; needed where there are over two."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A new folder for the probes, A's and B's, dense and sparse."),
    ] = None,
    sae: Annotated[str | None, typer.Option(help="An SAE of A in the workspace.")] = None,
    stitch_name: StitchArg = None,
    as_json: JsonFlag = False,
) -> None:
    """Fit probes of A on labels of your own, move them to B at once, and cross-validate both."""
    from core.probes.labelled import labelled, read_labels
    from core.probes.labels import own_labels
    from core.probes.probe import save_probe

    given = labelled(read_labels(files), positive)
    if out is not None:
        free_place(out)
    found = own_labels(_prober(pair, sae, stitch_name), given)
    if out is not None:
        out.mkdir(parents=True)
        for name, probe in found.probes.items():
            save_probe(probe, out / name)
    rows = found.table.to_dict("records")
    record = {
        "texts": found.n,
        "positive": found.positive,
        "left_out": found.left_out,
        "methods": rows,
        "features": found.features.to_dict("records"),
        "unused_columns": list(given.unused),
    }
    unused = f" (columns not used: {', '.join(given.unused)})" if given.unused else ""
    lines = [
        f"{found.n} texts, {found.left_out} left out{unused}; '{found.positive}' against the rest,"
        " cross-validated"
    ]
    lines += [
        f"  {r['method']:14} k={r['k']:<3} {r['accuracy']:.3f} ({r['low']:.3f}, {r['high']:.3f}) "
        f" AUC {r['auc']:.3f}"
        for r in rows
    ]
    show(record, as_json, "\n".join(lines))
