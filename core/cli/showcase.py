"""The command `showcase`."""

from typing import Annotated

import typer

from core.cli.shared import JsonFlag, PairArg, StitchArg, app, default_stitch, guarded, show


@app.command("showcase")
@guarded
def showcase_command(
    pair: PairArg,
    text: Annotated[
        str, typer.Option(help="The beginning that every lane goes on from.")
    ] = "The old bridge near our house was",
    language: Annotated[
        str | None,
        typer.Option(help="Code of a language that steering reaches; the best one by default."),
    ] = None,
    stitch_name: StitchArg = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same text.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Write the run that the first page shows, and keep it in the workspace.

    Three lanes go on from the same beginning: the larger model alone, the same model thinking with
    the smaller one's mind (its residual stream carried up by the stitch), and the larger model
    under a language vector that the smaller one learned. The third needs `steer eval`.

    python -m core showcase smollm2-gemma3 --text "Once upon a time" --language fr
    """
    from core.bench import open_pair
    from core.config import check
    from core.steering import showcase
    from core.steering.generate import Sampling

    bench = open_pair(pair)
    stitch = stitch_name or default_stitch(bench.workspace)
    sampling = check(Sampling, **showcase.SAMPLED, seed=seed)
    record = showcase.make(bench, stitch, text, sampling, language)
    lines = [f"{lane['title']}: {record['prompt']}|{lane['text']}" for lane in record["lanes"]]
    show(record, as_json, "\n".join(lines))
