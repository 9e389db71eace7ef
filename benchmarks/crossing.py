"""A stitched model's speed against its bound: A's layers below the stitch and the whole of B, each
with its cache, one token a step and nothing else; and how long a text of 60 words takes to cross.

Rounds alternate, so that ratios hold on a machine that does other work as well.
"""

import sys

import torch

from benchmarks import _measure as m
from core.bench import open_pair
from core.models import hooks
from core.steering.crossing import TextCrossing
from core.steering.generate import Sampling
from core.steering.studio import Studio
from core.stitches.stitched import Stitched, new_cache, tensor_of
from core.stitches.tables import stitch_names

PROMPT = "The best way to keep bread fresh is"
TOKENS = 32
ROUNDS = 5
WORDS = (
    "The museum opens at nine in the morning and closes at six in the evening. Visitors who come"
    " by train can walk from the station through the old town, past the market and the church. In"
    " summer there is a small garden behind the main building where children may play while their"
    " parents drink coffee and read the newspaper in the shade of the trees."
)


def bound(stitched: Stitched) -> None:
    """The passes that a stitched model cannot do without, on the prompt and TOKENS more."""
    listener, speaker = (stitched.model(s) for s in (stitched.other, stitched.speaker))
    caches = new_cache(), new_cache()
    ids = [tensor_of(x.encode([PROMPT])[0].ids)[None] for x in (listener, speaker)]
    for _ in range(TOKENS):
        h = hooks.below(listener, ids[0], stitched.layer(stitched.other), caches[0])
        stitched.cross(h[0].float())
        with torch.inference_mode():
            out = speaker.plain.base_model(
                input_ids=ids[1], past_key_values=caches[1], use_cache=True
            )
            token = int(speaker.logits(out.last_hidden_state[0, -1:])[0].argmax())
        ids = [torch.tensor([[token % listener.rows]]), torch.tensor([[token]])]


def speak(crossing: TextCrossing, names: tuple[str, ...]) -> int:
    """Steps that were done."""
    steps = 0
    lanes = crossing.lanes(names, "a_to_b")
    for _ in crossing.speak(PROMPT, lanes, Sampling(tokens=TOKENS, seed=1, temperature=0.5)):
        steps += 1
    return steps


def main() -> None:
    benchmark = m.Benchmark("crossing", __doc__)
    benchmark.add("--pair", default="smollm2-gemma3", help="pair whose B speaks")
    benchmark.add("--rounds", type=int, default=ROUNDS, help="rounds of each, in turns")
    given = benchmark.options()
    m.quiet()
    bench = open_pair(given.pair)
    crossing = TextCrossing(Studio(bench, stitch_names(bench.workspace)[0]))
    stitched = crossing.stitched("a_to_b")
    work = {
        "bound": lambda: bound(stitched),
        "stitched, one lane": lambda: speak(crossing, ("crossed",)),
        "four lanes": lambda: speak(crossing, ("a", "b", "crossed", "control")),
    }
    reads = []
    for one in work.values():
        one()
    crossing.read(WORDS)
    rates: dict[str, list[float]] = {name: [] for name in work}
    for k in range(given.rounds):
        for name, one in work.items():
            rates[name].append(TOKENS / m.seconds(one))
        reads.append(m.seconds(lambda: crossing.read(WORDS)))
        m.say(f"round {k + 1} of {given.rounds}")
    ratios = [
        stitched / most
        for stitched, most in zip(rates["stitched, one lane"], rates["bound"], strict=True)
    ]
    lines = [
        m.Line.median(
            "stitched against its bound",
            ratios,
            "x",
            at_least=0.7,
            note="steps/s",
        ),
        m.Line.median(
            "stitched, one lane",
            rates["stitched, one lane"],
            "tokens/s",
            at_least=4,
        ),
        m.Line.median("60 words crossed", reads, "s", at_most=1.5),
        m.Line.median("bound", rates["bound"], "steps/s"),
        m.Line.median("four lanes at once", rates["four lanes"], "steps/s"),
    ]
    settings = {
        "pair": given.pair,
        "stitch": crossing.studio.stitch_name,
        "dtype": str(bench.b.where.dtype),
        "tokens": TOKENS,
        "rounds": given.rounds,
    }
    benchmark.show("Crossing", settings, lines)


if __name__ == "__main__":
    sys.exit(main())
