"""What every command shares: the application, its arguments, errors as one sentence."""

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from core.errors import StitchLensError
from core.models.pairs import get_pair
from core.workspace.artifacts import Kind, discard
from core.workspace.store import Workspace

app = typer.Typer(
    help=(
        "StitchLens: learn affine stitches between two language models and measure what survives"
        " the crossing."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


PairArg = Annotated[
    str, typer.Argument(help="A pair from `python -m core pairs`, such as smollm2-gemma3.")
]


SaeArg = Annotated[
    str,
    typer.Option(
        help=(
            "An SAE of A: its name in the workspace, a zip or folder, RELEASE:ID, or"
            " hub:OWNER/NAME/FOLDER."
        )
    ),
]


StitchArg = Annotated[
    str | None,
    typer.Option("--stitch", help="A stitch of the workspace; the default one if not given."),
]


SaeOfPairOpt = Annotated[
    str | None, typer.Option("--sae", help="An SAE of the workspace; the first if not given.")
]
SourceOpt = Annotated[
    str,
    typer.Option(
        help=(
            "Where the direction comes from: lang:fr, feature:SAE/INDEX,"
            " concept:POSITIVE.txt,NEGATIVE.txt (one example a line, at most 5,000 characters of"
            " each), vector:NAME (see `vector import`) or file:PATH (safetensors, GGUF, JSON, .npy"
            " or .pt; file:PATH@b:13 for B's layer 13)."
        )
    ),
]


SaeLayerOpt = Annotated[
    int | None,
    typer.Option("--layer", help="The SAE reads before this layer, where it does not say so."),
]


ScaleOpt = Annotated[
    float | None,
    typer.Option(
        help=(
            "Factor by which the SAE's training scaled activations (its norm_scaling_factor);"
            " estimated from held-out text where it expects one."
        )
    ),
]


JsonFlag = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")
]


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turns our own errors, and a full disk wherever it strikes, into a sentence and status 2."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except StitchLensError as e:
            print(str(e), file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print(
                "Stopped; work so far is kept and the same command goes on from there.",
                file=sys.stderr,
            )
            raise typer.Exit(130) from None

    return run


def show(
    record: dict[str, Any],
    as_json: bool,
    text: str,
) -> None:
    print(json.dumps(record, indent=1) if as_json else text)


def default_stitch(ws: Workspace) -> str:
    """Raises StitchLensError where the workspace has none."""
    from core.stitches import tables as stitch_tables

    names = stitch_tables.stitch_names(ws) if ws.exists else []
    if not names:
        raise StitchLensError(
            f"no stitch in workspace '{ws.pair}'", "one", f"run `python -m core build {ws.pair}`"
        )
    return names[0]


def remove(
    pair: str,
    kind: Kind,
    name: str,
) -> None:
    """Take what a person brought or fitted, and what was measured of it, out of a workspace."""
    discard(Workspace(get_pair(pair).key), kind, name)
    print(f"Removed {name}.")


def say_of(about: Any) -> None:
    """What an SAE's metadata says that its user should know, on stderr."""
    from core.saes.config import NOTES
    from core.saes.scale import FACTOR

    if about[FACTOR] is not None:
        print(
            f"Its rows are scaled by {about[FACTOR]:.4g} ({about[f'{FACTOR}_from']}); folded in.",
            file=sys.stderr,
        )
    if about[NOTES]:
        print(about[NOTES], file=sys.stderr)


def listed(text: str | None) -> tuple[str, ...]:
    """What an option names with commas between; nothing where it is not given."""
    return tuple(part.strip() for part in text.split(",")) if text else ()


def free_place(out: Path) -> None:
    """Raises StitchLensError where something is there."""
    if out.exists():
        raise StitchLensError(f"{out.name} there already", "a free place", "name another --out")
