"""Four people steer at once while ten browse: everyone's text equals the text generated alone.

All are protocol sessions (see `session`): they open the Steering page by a link that holds prompt,
language, seed, lanes and length, press Go, and take the run from the page's own download, which has
every lane's whole text. Each person's run is written alone first, while nobody else uses the
server.
"""

import asyncio
import json
import random
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from streamlit.proto.WidgetStates_pb2 import WidgetState

from benchmarks._measure import Line, say
from core.steering.keys import LANE_KINDS, lane_key
from core.text.languages import LANGUAGES
from tests.helpers.serving import Server
from tests.helpers.soak.browsing import Guide, Seen, broken, person, serving
from tests.helpers.soak.session import Session, opened

PEOPLE = (
    {
        "prompt": "The best way to keep bread fresh is",
        "lang": "fr",
        "seed": 1,
        "lanes": ("b:none", "b:transferred"),
    },
    {
        "prompt": "When I was young, my father",
        "lang": "de",
        "seed": 2,
        "lanes": ("b:own", "a:transferred", "b:random"),
    },
    {
        "prompt": "The old bridge near our house was",
        "lang": "es",
        "seed": 3,
        "lanes": ("a:none", "a:own"),
    },
    {
        "prompt": "Every morning she walks to",
        "lang": "nl",
        "seed": 4,
        "strength": 1.5,
        "lanes": ("b:none", "b:own", "b:transferred", "a:shuffled"),
    },
)
"""What each of them asks for, in the page's words."""
BROWSERS = 10


def link(pair: str, asked: dict[str, Any], tokens: int) -> str:
    """A link holds what widgets show, so languages and lanes by their names."""
    shown = {
        "lanes": [name(lane) for lane in asked["lanes"]],
        "lang": dict(LANGUAGES.values())[asked["lang"]],
    }
    return urlencode(
        asked | shown | {"pair": pair, "tokens": tokens, "source": "Language"}, doseq=True
    )


def name(lane: str) -> str:
    """As a link calls a lane."""
    key = lane_key(lane)
    return f"{key.side.upper()} {LANE_KINDS[key.kind][0]}"


async def steer(tab: Session, pair: str, asked: dict[str, Any], tokens: int) -> dict[str, Any]:
    """The run as the page offers it for download. Fails where anything but that run is there."""
    query = link(pair, asked, tokens)
    run = await tab.ask("steering", query)
    go = run.widget("button", "Go")
    assert go is not None and not run.faults, f"{pair}: {run.faults or run.headings()}"
    run = await tab.ask(query=query, widgets=[WidgetState(id=go.id, trigger_value=True)])
    offered = run.widget("download_button", "Run")
    assert offered is not None and not run.faults, f"{pair}: {run.faults or 'no run to download'}"
    found = json.loads(await tab.fetch(offered.url))
    wanted = (asked["prompt"], asked["seed"], tokens, f"lang:{asked['lang']}", [*asked["lanes"]])
    sampling = found["sampling"]
    got = (
        found["prompt"],
        sampling["seed"],
        sampling["tokens"],
        found["source"],
        [x["lane"] for x in found["lanes"]],
    )
    assert got == wanted, f"asked for {wanted}, got {got}"
    return found


def texts(record: dict[str, Any]) -> list[str]:
    return [lane["text"] for lane in record["lanes"]]


async def both(
    server: Server, pair: str, tokens: int, rounds: int, seed: int, seen: Seen
) -> tuple[int, int, float]:
    """Alone, then together `rounds` times: texts compared, texts equal, seconds of the longest run
    together."""
    alone = []
    for asked in PEOPLE:
        async with opened(server.url) as tab:
            alone.append(texts(await steer(tab, pair, asked, tokens)))
        say(f"{pair}, alone: {alone[-1][-1][:70]!r}")
    began = time.monotonic()
    guide, chances = Guide(), [random.Random(seed * 1000 + k) for k in range(BROWSERS)]
    crowd = [
        asyncio.create_task(person(f"reader {k}", server.url, guide, c, began, float("inf"), seen))
        for k, c in enumerate(chances)
    ]
    compared = equal = 0
    slowest = 0.0
    async with AsyncExitStack() as stack:
        tabs = [await stack.enter_async_context(opened(server.url)) for _ in PEOPLE]
        for _ in range(rounds):
            started = time.monotonic()
            found = await asyncio.gather(
                *(steer(t, pair, a, tokens) for t, a in zip(tabs, PEOPLE, strict=True))
            )
            slowest = max(slowest, time.monotonic() - started)
            for k, (one, record) in enumerate(zip(alone, found, strict=True)):
                for lane, x, y in zip(PEOPLE[k]["lanes"], one, texts(record), strict=True):
                    compared, equal = compared + 1, equal + (x == y)
                    if x != y:
                        say(f"{pair}, person {k}, {lane}: alone {x!r}, together {y!r}")
    for task in crowd:
        task.cancel()
    ended = await asyncio.gather(*crowd, return_exceptions=True)
    seen.faults += [repr(e) for e in ended if isinstance(e, Exception)]
    return compared, equal, slowest


def run(short: bool, seed: int) -> tuple[dict[str, Any], list[Line]]:
    """The table's third line: on `nano`; not short, on the large pair too."""
    plan = {"nano": (24, 1)} if short else {"nano": (64, 3), "smollm2-gemma3": (32, 1)}
    seen, lines = Seen(), list[Line]()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server:
        for pair, (tokens, rounds) in plan.items():
            compared, equal, slowest = asyncio.run(both(server, pair, tokens, rounds, seed, seen))
            lines.append(
                Line(
                    f"texts on {pair} equal to those written alone",
                    equal,
                    f"of {compared}",
                    at_least=compared,
                    note=f"4 people, {BROWSERS} browse, {slowest:.0f} s",
                )
            )
        broken(server, seen)
    lines.append(
        Line(
            "errors while others steer",
            len(seen.faults),
            at_most=0,
            note="; ".join(seen.faults[:3])[:300],
        )
    )
    return {"people": f"{len(PEOPLE)}, {BROWSERS} browse"}, lines
