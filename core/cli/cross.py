"""The command `cross`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from core.cli.shared import JsonFlag, PairArg, StitchArg, app, default_stitch, guarded, show
from core.errors import StitchLensError
from core.models.pairs import PairSpec, get_pair
from core.steering.settings import USUAL, Sampling
from core.steering.sources import source_from
from core.stitches import directions
from core.stitches.directions import CONTROLS, names, title


@app.command("cross")
@guarded
def cross_command(
    pair: PairArg,
    text: Annotated[
        str | None, typer.Option(help="What both models read, and go on from with --speak.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="The same from a file (UTF-8); - is standard input.")
    ] = None,
    direction: Annotated[
        str,
        typer.Option(
            help=(
                "Whose layers come first and whose last: a_to_b (A thinks, B speaks), b_to_a,"
                " a_to_b_to_a or b_to_a_to_b, as in Table 1."
            )
        ),
    ] = "a_to_b",
    stitch_name: StitchArg = None,
    control: Annotated[
        str,
        typer.Option(
            help="To compare with: shuffled (a stitch of shuffled pairs), random or none."
        ),
    ] = "shuffled",
    speak: Annotated[
        bool, typer.Option("--speak", help="Also let the lanes go on from the text.")
    ] = False,
    lanes: Annotated[
        str, typer.Option(help="With --speak: a, b (each model alone), crossed, control.")
    ] = "a,b,crossed,control",
    tokens: Annotated[
        int,
        typer.Option(
            min=1,
            max=1000,
            help="With --speak: most tokens that a lane writes.",
        ),
    ] = 40,
    temperature: Annotated[
        float,
        typer.Option(
            min=0,
            max=5,
            help="With --speak: 0 takes the likeliest token.",
        ),
    ] = USUAL.temperature,
    seed: Annotated[
        int, typer.Option(min=0, help="With --speak: the same seed writes the same text.")
    ] = USUAL.seed,
    vector: Annotated[
        str | None,
        typer.Option(
            help=(
                "With --speak: steer by lang:fr, feature:SAE/INDEX, vector:NAME or file:PATH; the"
                " lanes of the model that speaks by the vector that was carried over to it."
            )
        ),
    ] = None,
    strength: Annotated[float, typer.Option(help="Of the vector: multiplies c of Eq. 8.")] = 1.0,
    all_tokens: Annotated[
        bool,
        typer.Option(
            "--all-tokens",
            help=(
                "Also draw tokens that the speaking model never says in the corpus, such as"
                " <start_of_image>."
            ),
        ),
    ] = False,
    sink: Annotated[
        bool,
        typer.Option(
            "--sink",
            help=(
                "First tokens and massive activations cross, too, by a map of their own (see"
                " `stitch sink`)."
            ),
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Watch a text cross: one model's layers read it, the other's go on.

    Up to the stitched layer the first model computes, the stitch carries its residual stream over,
    and the last model's upper layers say what comes next (Fig. 1a). Only positions at which both
    models have read the same text cross; the others, marked with a dot, keep the stream of the
    model that speaks.

    Each line is a token: its text, the next token that each model expects and that the stitched
    model expects, each with its probability, and what crossing costs there, in nats of the next
    token and as KL from the speaking model. Below, the totals of Table 1 for this text. Losses are
    nats per token of the model that is scored, so the two models' own compare in bits per byte
    only.

    python -m core cross smollm2-gemma3 --text "The capital of France is Paris."

    python -m core cross nano --text "The house of my mother" --speak --tokens 20 --json
    """
    from core.bench import open_pair
    from core.config import check
    from core.steering.crossing import TextCrossing, spoken_record
    from core.steering.studio import Studio

    spec = get_pair(pair)
    words = given(text, file)
    if control not in (*CONTROLS, "none"):
        choices = ", ".join((*CONTROLS, "none"))
        raise StitchLensError(f"control '{control}'", f"one of {choices}", "choose one")
    sampling = check(
        Sampling,
        tokens=tokens,
        temperature=temperature,
        seed=seed,
    )
    opened = open_pair(spec.key)
    stitch = stitch_name or default_stitch(opened.workspace)
    directions.check(opened.workspace, stitch, direction, None if control == "none" else control)
    crossing = TextCrossing(Studio(opened, stitch), sink)
    passage = crossing.read(words, direction, () if control == "none" else (control,))  # type: ignore[arg-type]
    record: dict[str, Any] = {
        "pair": spec.key,
        "stitch": crossing.studio.stitch_name,
        "control": control,
        **passage.record(),
        "lanes": [],
    }
    if speak:
        wanted = [name.strip() for name in lanes.split(",")]
        if control == "none":
            wanted = [name for name in wanted if name != "control"]
        source = None if vector is None else source_from(vector)
        run = crossing.lanes(wanted, direction, control, all_tokens, source, strength)  # type: ignore[arg-type]
        written = {}
        for written in crossing.speak(words, run, sampling):
            most = max(len(w.ids) for w in written.values())
            print(
                f"\r{most} tokens",
                end="",
                file=sys.stderr,
                flush=True,
            )
        print(file=sys.stderr)
        record["sampling"] = sampling.model_dump() | {"vector": vector, "strength": strength}
        record["lanes"] = spoken_record(crossing, run, written)
    show(record, as_json, as_text(spec, record))


def given(text: str | None, file: Path | None) -> str:
    """What is to be read. Raises StitchLensError where there is nothing, or both."""
    from core.text.reading import decode, read_text
    from core.workspace.places import named

    if (text is None) == (file is None):
        raise StitchLensError(
            "no text" if text is None else "--text and --file",
            "one of them",
            "give --text or --file",
        )
    if file is None:
        return text or ""
    if str(file) == "-":
        return decode(sys.stdin.buffer.read(), "standard input")
    return read_text(named(str(file)))


def as_text(pair: PairSpec, record: dict[str, Any]) -> str:
    """The record for a terminal."""
    of, crossed = names(pair), title(pair, record["direction"])
    wide = max(len(crossed), 24)
    lines = [f"{'':2}{'token':18}{of['a']:24}{of['b']:24}{crossed:{wide}}  cost    KL"]
    speaker = record["direction"][-1]
    for token in record["tokens"]:
        own, new = token[f"loss_{speaker}"], token["loss_crossed"]
        cost = "" if own is None or new is None else f"{new - own:+.2f}"
        tops = (_top(token[f"top_{key}"]) for key in ("a", "b", "crossed"))
        one, two, three = tops
        mark = " " if token["paired"] else "·"
        lines.append(
            f"{mark} {_shown(token['text'], 16):18}{one:24}{two:24}{three:{wide}}{cost:>6}"
            f"{token['kl']:6.2f}"
        )
    lines.append("")
    for key, total in record["totals"].items():
        relative = total.get("relative")
        lines.append(
            f"  {_named(pair, key):40}{total['loss']:6.3f} nats/token"
            f"  {total['bits_per_byte']:.3f} bits/byte"
            + ("" if relative is None else f"  {relative:+.1%}")
        )
    share = record["totals"][record["direction"]]["share_patched"]
    lines.append(f"  {share:.0%} of the positions crossed")
    if record["read"] < len(record["text"]):
        lines.append(f"  read: the first {record['read']:,} of {len(record['text']):,} characters")
    for lane in record["lanes"]:
        what = crossed if lane["direction"] else of[lane["lane"]]
        if lane["lane"] == "control":
            what += f" through {CONTROLS[record['control']]}"
        lines += ["", f"[{lane['lane']}] {what}", f"{record['text']}{lane['text']}"]
    if any(lane["left_out"] for lane in record["lanes"]):
        lines += ["", "Tokens that a model never says in the corpus were left out (--all-tokens)."]
    return "\n".join(lines)


def _named(pair: PairSpec, key: str) -> str:
    if key in ("a", "b"):
        return names(pair)[key]
    control = next((c for c in CONTROLS if key.startswith(f"{c}_")), None)
    direction = key if control is None else key.removeprefix(f"{control}_")
    return title(pair, direction) + ("" if control is None else f", {control}")


def _top(top: list[tuple[str, float]]) -> str:
    return f"{_shown(top[0][0], 14)} {top[0][1]:.0%}" if top else "–"


def _shown(text: str, most: int) -> str:
    """A token on one line."""
    marked = text.replace("\n", "⏎").replace("\r", "␍").replace("\t", "⇥").replace(" ", "␣", 1)
    return marked if len(marked) <= most else marked[: most - 1] + "…"
