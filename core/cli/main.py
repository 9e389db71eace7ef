"""`python -m core …`: a thin face on pipeline and report. Errors are one sentence on stderr and
exit status 2."""

import io
import logging
import os
import sys
import warnings
from typing import Annotated

import typer
import typer.core

from core.cli import (  # noqa: F401 - each adds its commands
    api,
    cross,
    evaluation,
    explanations,
    export,
    features,
    functional,
    models,
    paper,
    probes,
    saes,
    scale,
    showcase,
    steering,
    stitches,
)
from core.cli.shared import JsonFlag, PairArg, app, guarded, show
from core.errors import StitchLensError
from core.models.pairs import get_pair
from core.probes import tables as probe_tables
from core.steering import tables as steering_tables
from core.stitches import tables as stitch_tables


@app.command("doctor")
@guarded
def doctor_command(
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Put workspaces right: rebuild what can be, set the rest aside."
        ),
    ] = False,
    build: Annotated[
        bool, typer.Option(help="With --repair: also build again what was lost.")
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Check what is installed, which models, corpora and workspaces are found, and say what to do
    about each fault."""
    from core.doctor import doctor

    if repair:
        from core.doctor import repair_all

        for done in repair_all(build):
            print(f"{done.workspace}: {done.says}", file=sys.stderr)
    checks = doctor()
    lines = []
    for c in checks:
        todo = f". To do: {c['todo']}" if c["todo"] else ""
        lines.append(f"{'ok  ' if c['ok'] else 'FAIL'} {c['what']}: {c['found']}{todo}")
    show({"checks": checks}, as_json, "\n".join(lines))
    if not all(c["ok"] for c in checks):
        raise typer.Exit(2)


@app.command("report")
@guarded
def report_command(
    pair: PairArg,
    as_json: JsonFlag = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print tables in Markdown, with intervals.")
    ] = False,
) -> None:
    """Print everything the workspace holds of a pair: Table 1 with controls for each stitch."""
    from core.cli.markdown import as_markdown
    from core.report import report

    if markdown and as_json:
        raise StitchLensError("--json and --markdown", "one of them", "leave the other out")
    if markdown:
        print(as_markdown(get_pair(pair)))
        return

    found = report(get_pair(pair))
    text = "\n".join(
        [found["title"], *(stitch_tables.as_text(n, s) for n, s in found["stitches"].items())]
    )
    if "steering" in found:
        text += "\n" + steering_tables.as_text(found["steering"])
    for name, some in found.get("probes", {}).items():
        text += "\n" + probe_tables.as_text(name, some)
    show(found, as_json, text)


def _quiet() -> None:
    """Third-party loading bars and advice would drown our own progress."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger().setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def main() -> None:
    _quiet()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a text that the terminal's encoding lacks signs for is still shown
            stream.reconfigure(errors="backslashreplace")
    app()
