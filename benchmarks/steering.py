"""Live steering against its peers: three lanes of B together against one unsteered row of
`transformers`' generate, one steered row against the `steering-vectors` package, and how long the
first token takes after the click.

The peer gets its best settings: the same dtype, `sdpa` attention, a KV cache, greedy decoding
without any penalty (ours draws with temperature, top p and repetition penalty). `pip install
--no-deps steering-vectors==0.12.2` brings the second peer; without it its line is left out. Rates
are medians over rounds that alternate.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import _measure as m
from core.bench import open_pair
from core.models.live import LiveModel
from core.steering.keys import LaneKey
from core.steering.settings import Sampling, Setting
from core.steering.sources import Language
from core.steering.studio import Studio

PROMPT = "The best way to keep bread fresh is"
TOKENS = 48
ROUNDS = 5
LANES = [LaneKey("b", "none"), LaneKey("b", "own"), LaneKey("b", "transferred")]


def ours(studio: Studio, lanes: list[LaneKey]) -> Callable[[], None]:
    source = studio.directions(Language("fr"))

    def work() -> None:
        for _ in studio.run(source, lanes, PROMPT, Setting(), Sampling(tokens=TOKENS, seed=1)):
            pass

    return work


def generate(model: LiveModel, hf: Any) -> Callable[[], None]:
    ids = torch.tensor([model.encode([PROMPT])[0].ids.tolist()])

    def work() -> None:
        with torch.inference_mode():
            hf.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=TOKENS,
                min_new_tokens=TOKENS,
                do_sample=False,
                pad_token_id=0,
            )

    return work


def packaged(studio: Studio, model: LiveModel, hf: Any) -> Callable[[], None]:
    """One row steered by the `steering-vectors` package: our own vector, added after the block
    before its layer."""
    peer = importlib.import_module("steering_vectors")  # not among the requirements: see the top
    (vector,) = studio.vectors(studio.directions(Language("fr")), LaneKey("b", "own"), Setting())
    push = (vector.mean - vector.base) * vector.v
    packed = peer.SteeringVector({vector.layer - 1: push}, "decoder_block")
    work = generate(model, hf)

    def steered() -> None:
        with packed.apply(hf):
            work()

    return steered


def first_token(studio: Studio) -> float:
    """Seconds from the call to the first token of three lanes, models and vectors warm."""
    stream = studio.run(
        studio.directions(Language("fr")), LANES, PROMPT, Setting(), Sampling(tokens=4)
    )
    seconds = m.seconds(lambda: next(stream))
    stream.close()
    return seconds


def main() -> None:
    benchmark = m.Benchmark("steering", __doc__)
    benchmark.add("--pair", default="smollm2-gemma3", help="pair whose B generates")
    benchmark.add("--rounds", type=int, default=ROUNDS, help="rounds of each, in turns")
    given = benchmark.options()
    m.quiet()
    bench = open_pair(given.pair)
    names = [n.removeprefix("stitches/") for n in bench.workspace.names(prefix="stitches/")]
    studio = Studio(bench, names[-1])
    model = bench.b
    work = {"three lanes": ours(studio, LANES), "one steered lane": ours(studio, LANES[1:2])}
    work["transformers, one row"] = generate(model, model.plain)
    if importlib.util.find_spec("steering_vectors"):
        work["steering-vectors, one row"] = packaged(studio, model, model.plain)
    else:
        m.say("steering-vectors is not installed; see --help")
    for one in work.values():
        one()
    found: dict[str, list[float]] = {name: [] for name in work}
    for k in range(given.rounds):
        for name, one in work.items():
            found[name].append(TOKENS / m.seconds(one))
        m.say(f"round {k + 1} of {given.rounds}")
    first = [first_token(studio) for _ in range(given.rounds)]

    def against(one: str, peer: str) -> list[float]:
        """Ratios of a round each, so that what else the machine does cancels."""
        return [x / y for x, y in zip(found[one], found[peer], strict=True)]

    lines = [
        m.Line.median(
            "three lanes against one row of transformers",
            against("three lanes", "transformers, one row"),
            "x",
            at_least=0.85,
            note="steps/s",
        ),
        m.Line.median("first token after the call", first, "s", at_most=1.5),
    ]
    if "steering-vectors, one row" in found:
        lines.append(
            m.Line.median(
                "one steered lane against steering-vectors",
                against("one steered lane", "steering-vectors, one row"),
                "x",
            )
        )
    lines += [m.Line.median(name, rates, "steps/s") for name, rates in found.items()]
    settings = {
        "pair": given.pair,
        "dtype": str(model.where.dtype),
        "tokens": TOKENS,
        "rounds": given.rounds,
    }
    benchmark.show("Live steering", settings, lines)


if __name__ == "__main__":
    sys.exit(main())
