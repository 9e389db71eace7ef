"""Does what a stitched model writes change where the sink crosses, too? Texts under each way to
cross the first position, scored by the model that speaks (5.2)."""

from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from core.bench import Bench
from core.config import Frozen
from core.models.pairs import LayerPair, Side
from core.statistics import mean_interval, share_interval
from core.steering.generate import respond_and_score
from core.steering.lanes import Lane
from core.steering.settings import Sampling
from core.steering.vocabulary import never_said
from core.stitches.directions import Direction
from core.stitches.sink import load_sink
from core.stitches.sink_losses import KEPT, maps_of
from core.stitches.stitch import load_stitch
from core.stitches.stitched import Stitched
from core.text.languages import prompts, repetition
from core.workspace.store import makers

SPEAKERS: dict[Direction, Side] = {"a_to_b": "b", "b_to_a": "a"}


class SpeechConfig(Frozen):
    """How much is written."""

    prompts: int = Field(default=16, ge=2, le=1000)
    length: int = Field(default=40, ge=1, le=1000)
    """Tokens of each text."""


def write(
    bench: Bench,
    name: str,
    config: SpeechConfig | None = None,
) -> None:
    """Put `sinks/<stitch>/texts` and `/speech` into the workspace: what was written to the same
    prompts under each condition, and a row a direction and condition. Raises StitchLensError where
    the stitch has no second piece yet."""
    config = config or SpeechConfig()
    ws = bench.workspace
    maker = makers(ws, f"sinks/{name}/map") | config.model_dump()
    if bench.current(f"sinks/{name}/texts", maker) and bench.current(f"sinks/{name}/speech", maker):
        return

    texts = _texts(bench, name, config)
    ws.put_table(f"sinks/{name}/texts", texts, maker)
    ws.put_table(f"sinks/{name}/speech", summary(texts), maker)


def _texts(
    bench: Bench,
    name: str,
    config: SpeechConfig,
) -> pd.DataFrame:
    """A row a direction, condition (`own`: the speaker alone) and prompt: `text`, its `loss`
    (nats/token after the prompt, under the speaker alone) and `repetition`."""
    ws = bench.workspace
    stitch = load_stitch(ws.path(f"stitches/{name}"))
    second = [load_sink(ws.path(f"sinks/{name}/{part}")) for part in ("map", "shuffled")]
    maps = maps_of(stitch, *second)
    layers = LayerPair(a=stitch.makers["layer_a"], b=stitch.makers["layer_b"])
    sampling = Sampling(tokens=config.length, temperature=0)
    choosing, measured = prompts()
    some = [*choosing, *measured][: config.prompts]

    parts = []
    for direction, speaker in SPEAKERS.items():
        model = bench.a if speaker == "a" else bench.b
        silent = never_said(model, bench.corpus)
        lanes = {"own": Lane(silent=silent)}
        for condition, (of_condition, first) in maps.items():
            stitched = Stitched(bench.a, bench.b, layers, of_condition, direction, first)
            lanes[condition] = Lane(stitched=stitched, silent=silent)

        rows = [(prompt, lane, 0) for lane in lanes.values() for prompt in some]
        scored = respond_and_score(model, rows, sampling, f"writing, {speaker.upper()} speaks")
        cells = [(condition, prompt) for condition in lanes for prompt in some]
        parts += [
            {
                "direction": direction,
                "condition": condition,
                "prompt": prompt,
                "text": written.text,
                "loss": loss,
                "repetition": repetition(written.text),
            }
            for (condition, prompt), (written, loss) in zip(cells, scored, strict=True)
        ]
    return pd.DataFrame(parts)


def summary(texts: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """A row a direction and condition: `loss` and `repetition`, means over prompts with intervals;
    `changed`, the share of texts that are not those of today's condition."""
    rows: list[dict[str, Any]] = []
    for _, part in texts.groupby(["direction", "condition"], sort=False):
        at = part.iloc[0]
        of_direction = texts.loc[texts.direction == at.direction]
        today = of_direction.loc[of_direction.condition == KEPT]
        row: dict[str, Any] = {
            "direction": at.direction,
            "condition": at.condition,
            "prompts": len(part),
        }
        for column in ("loss", "repetition"):
            rng = np.random.default_rng(seed)
            values = part[column].dropna().to_numpy()
            mean, low, high = mean_interval(values, rng)
            row |= {column: mean, f"{column}_low": low, f"{column}_high": high}

        changed = int((part.text.to_numpy() != today.text.to_numpy()).sum())
        low, high = share_interval(changed, len(part))
        rows.append(
            row | {"changed": changed / len(part), "changed_low": low, "changed_high": high}
        )
    return pd.DataFrame(rows)
