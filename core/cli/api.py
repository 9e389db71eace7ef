"""The command `api`."""

import sys
from typing import Annotated

import typer

from core.cli.shared import app, guarded


@app.command("api")
@guarded
def api_command(
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65_535, help="8601, or the next free one, if not given."),
    ] = None,
) -> None:
    """Answer over HTTP what the tables know, to this machine alone: pairs, stitches, features,
    find, one feature, cross. Its first page lists every address."""
    from core.api.serve import serve

    def told(address: str) -> None:
        print(f"StitchLens API: {address} (Ctrl-C stops it)", flush=True)

    serve(port, told)
    print("Stopped.", file=sys.stderr)
