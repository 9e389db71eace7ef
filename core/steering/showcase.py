"""One run that is kept with the workspace, for the first page to show before any model is open: the
larger model alone, thinking with the smaller one's mind, and under a vector of it.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from core.errors import StitchLensError
from core.stitches import directions
from core.stitches.directions import Direction
from core.workspace.store import Workspace

if TYPE_CHECKING:
    from core.bench import Bench
    from core.models.pairs import Side
    from core.steering.crossing import TextCrossing
    from core.steering.generate import Written
    from core.steering.lanes import Lane
    from core.steering.settings import Sampling
    from core.steering.studio import Studio

NAME = "showcase"
DIRECTION: Direction = "a_to_b"
SAMPLED = {
    "tokens": 40,
    "temperature": 0.5,
    "repetition": 1.1,
}
"""How the first page writes, kept or live."""


def read(ws: Workspace) -> dict[str, Any] | None:
    """The run that is kept, None where there is none: `prompt`, `stitch`, the settings, and
    `lanes`, each with `lane`, `title`, `side` ('a' or 'b', the model that speaks), `carried`
    (whether something of the other model is in it) and `text`.

    Raises StitchLensError where it is damaged.
    """
    return ws.record(NAME) if ws.exists and NAME in ws.names() else None


def lanes(
    crossing: "TextCrossing",
    preset: dict[str, Any] | None,
    open_studio: "Callable[[str], Studio]",
) -> "dict[str, tuple[Side, Lane]]":
    """`alone`, `crossed` and, where a `preset` (see `core.steering.tables.presets`) says what to
    steer toward, `steered`: who speaks, and how. `open_studio` has the studio of a stitch at
    hand: the preset's may be another one."""
    both = crossing.lanes(("b", "crossed"), DIRECTION)
    chosen: dict[str, tuple[Side, Lane]] = {"alone": both["b"], "crossed": both["crossed"]}
    if preset is None:
        return chosen

    from dataclasses import replace

    from core.steering.keys import LaneKey
    from core.steering.settings import Setting
    from core.steering.sources import Language

    studio = open_studio(preset["stitch"])
    setting = Setting(strength=preset["strength"], layers_b=(preset["first"], preset["last"]))
    source = studio.directions(Language(preset["language"]))
    vectors = studio.vectors(source, LaneKey("b", "transferred"), setting)
    side, alone = both["b"]
    chosen["steered"] = (side, replace(alone, vectors=vectors, strength=preset["strength"]))
    return chosen


def titles(crossing: "TextCrossing", preset: dict[str, Any] | None) -> dict[str, str]:
    """What the lanes are called on screen."""
    names = directions.names(crossing.studio.bench.pair)
    a, b = names["a"], names["b"]
    language = "" if preset is None else f"{b} with {a}'s {preset['name']}"
    return {
        "alone": f"{b} alone",
        "crossed": f"{b} thinking with {a}'s mind",
        "steered": language,
    }


def entries(
    chosen: "Mapping[str, tuple[Side, Lane]]",
    called: Mapping[str, str],
    written: "Mapping[str, Written]",
) -> list[dict[str, Any]]:
    """The `lanes` of a run, see `read`: of those `chosen`, `called` as they are on screen, what
    each has `written` so far."""
    return [
        {
            "lane": lane,
            "title": called[lane],
            "side": chosen[lane][0],
            "carried": lane != "alone",
            "text": text.text,
        }
        for lane, text in written.items()
    ]


def make(
    bench: "Bench",
    stitch: str,
    prompt: str,
    sampling: "Sampling",
    language: str | None = None,
) -> dict[str, Any]:
    """Writes the lanes from a prompt and keeps them in the workspace; `language` is one of the
    presets', the first one's where it is None.

    Raises StitchLensError for a language without a preset, and where the stitch does not lead up.
    """
    from core.steering import tables
    from core.steering.crossing import TextCrossing
    from core.steering.studio import Studio

    ws = bench.workspace
    presets = {preset["language"]: preset for preset in tables.presets(ws)}
    if language is not None and language not in presets:
        raise StitchLensError(
            f"language '{language}'",
            f"one that steering reaches: {', '.join(presets) or 'none was measured yet'}",
            f"choose one, or measure more by `python -m core steer eval {bench.pair.key}`",
        )
    preset = presets[language] if language else next(iter(presets.values()), None)

    crossing = TextCrossing(Studio(bench, stitch))

    def open_studio(name: str) -> Studio:
        return crossing.studio if name == stitch else Studio(bench, name)

    chosen = lanes(crossing, preset, open_studio)
    written = list(crossing.speak(prompt, chosen, sampling))[-1]

    record = {
        "prompt": prompt,
        "stitch": stitch,
        "language": preset["language"] if preset else None,
        "sampling": sampling.model_dump(),
        "lanes": entries(chosen, titles(crossing, preset), written),
    }
    makers = bench.makers | {
        "stitch_name": stitch,
        "prompt": prompt,
        "language": language,
    }
    ws.put_record(NAME, record, makers | {"sampling": sampling.model_dump()})
    return record
