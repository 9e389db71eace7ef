"""`steer eval`: how often steering works, to languages or to instructions."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.cli.scale import show_once
from core.cli.shared import JsonFlag, PairArg, default_stitch, guarded
from core.cli.steering import steer
from core.errors import StitchLensError
from core.steering.tables import as_text, followed_text

if TYPE_CHECKING:
    from core.bench import Bench


@steer.command("eval")
@guarded
def steer_eval_command(
    pair: PairArg,
    languages: Annotated[
        str | None, typer.Option(help="Codes joined by commas, such as fr,nl; all if not given.")
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option(min=1, help="Prompts of the second half that are measured; all if not given."),
    ] = None,
    choosing: Annotated[
        int | None,
        typer.Option(
            min=1, help="Prompts of the first half that choose settings: 6, of instructions 4."
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of a response: 40, under instructions 64."),
    ] = None,
    stitches: Annotated[
        str | None, typer.Option(help="Stitches to choose from, joined by commas; all.")
    ] = None,
    instructions: Annotated[
        bool, typer.Option("--instructions", help="Steer to instructions (Fig. 12, 13).")
    ] = False,
    only: Annotated[
        str | None, typer.Option(help="Instructions, such as capitals,json; all if not given.")
    ] = None,
    steered: Annotated[
        str | None,
        typer.Option(
            help="Models that instructions steer: a, b or a,b; those with a chat template."
        ),
    ] = None,
    strengths: Annotated[
        str | None, typer.Option(help="Strengths that instructions choose from, such as 1,2,4.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="Instructions and requests of your own, as in instructions.toml."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few and short responses to instructions.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Measure response languages under own, transferred and random vectors, both ways (Fig. 3b,
    Tables 5 and 6); with --instructions, which instructions are followed (Fig. 12, 13).

    A killed run goes on where it was. Start the same command several times, by torchrun or as a
    SLURM array, to have processes share the work (see `launch`).
    """
    from core.bench import open_pair
    from core.report import report

    bench = open_pair(pair)
    default_stitch(bench.workspace)
    values = {
        "prompts": prompts,
        "choosing": choosing,
        "tokens": tokens,
        "stitches": _parts(stitches),
    }
    alone = {
        "--only": only,
        "--steered": steered,
        "--strengths": strengths,
        "--file": file,
        "--quick": quick or None,
    }
    if not instructions:
        named = [name for name, value in alone.items() if value is not None]
        if named:
            raise StitchLensError(
                f"{', '.join(named)} without --instructions",
                "both, or neither",
                "add --instructions, or leave it out",
            )
        _languages(bench, values | {"languages": _parts(languages)})
        measured = report(bench.pair)["steering"]
        show_once(measured, as_json, as_text(measured))
        return

    if languages is not None:
        raise StitchLensError(
            "--languages with --instructions", "one of them", "choose instructions with --only"
        )
    values |= {
        "instructions": _parts(only),
        "steered": _parts(steered),
        "strengths": _numbers(strengths),
    }
    _instructions(bench, values, file, quick)
    followed = report(bench.pair)["steering"]["instructions"]
    show_once(followed, as_json, followed_text(followed))


def _languages(bench: "Bench", values: dict[str, Any]) -> None:
    from core.config import check
    from core.steering import measure

    given = {name: value for name, value in values.items() if value is not None}
    measure.evaluate(bench, check(measure.SteerConfig, **given))


def _instructions(
    bench: "Bench",
    values: dict[str, Any],
    file: Path | None,
    quick: bool,
) -> None:
    from core.config import check
    from core.steering import following
    from core.steering.instructions import INSTRUCTIONS, load_instructions

    texts = load_instructions(file or INSTRUCTIONS)
    usual = following.QUICK if quick else following.FollowConfig()
    given = {name: value for name, value in values.items() if value is not None}
    config = check(following.FollowConfig, **(usual.model_dump() | given))

    following.evaluate(bench, config, texts, lambda sentence: print(sentence, file=sys.stderr))


def _parts(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(","))


def _numbers(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise StitchLensError(f"strengths '{text}'", "numbers, such as 1,2", "mend it") from None
