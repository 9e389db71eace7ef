"""What moves steering with transferred vectors, one change at a time, from A to B, on prompts that
choose (not on those that figures come from). A row a change: share of responses in the language,
its mean over languages, and fluency.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import _measure as m
from core.bench import open_pair
from core.models.pairs import LayerPair
from core.steering.generate import respond_and_score
from core.steering.lanes import Lane
from core.steering.settings import Sampling
from core.steering.studio import Studio
from core.steering.vectors import LanguageMeans, Means, Vector, diff_mean, moved
from core.stitches.fit import fit_moments
from core.stitches.settings import FitConfig
from core.stitches.stitch import Stitch, load_stitch
from core.text.languages import LABELS, LANGUAGES, detect, prompts

CODES = "nl pl ro fr de es it pt sv cs fi ru id tr"
PROMPTS = 8
SAMPLING = Sampling(tokens=32, temperature=0.5, repetition=1.1)


def contrast(found: LanguageMeans, label: str, layer: int, share: float) -> Means:
    """Against English, or, with `share`, that far from English to the mean of the other
    languages."""
    plain = found.of(label, layer)
    others = [k for k, x in enumerate(found.labels) if x not in (label, "eng")]
    others_mean = found.mean[others, layer].float().mean(0)
    return Means(layer, plain.positive, plain.negative + share * (others_mean - plain.negative))


def main() -> None:
    benchmark = m.Benchmark("steering_study", __doc__)
    benchmark.add("--pair", default="smollm2-gemma3", help="pair; vectors go from A to B")
    benchmark.add("--stitch", default="L22-L13", help="the stitch that the changes start from")
    benchmark.add("--languages", default=CODES, help="codes, joined by blanks")
    given = benchmark.options()
    m.quiet()
    bench = open_pair(given.pair)
    ws, labels = bench.workspace, [LABELS[c] for c in given.languages.split()]
    studio = Studio(bench, given.stitch)
    means_a, means_b, at = (
        studio.means("a"),
        studio.means("b"),
        (studio.stitched("a"), studio.stitched("b")),
    )
    texts = prompts()[0][:PROMPTS]
    moments = bench.moments(
        "fit", [LayerPair(a=at[0], b=at[1])], studio.stitch().makers["positions"]
    )[0]
    gram = moments[LayerPair(a=at[0], b=at[1]).name].moments()

    def fitted(**change: Any) -> Stitch:
        return fit_moments(gram, FitConfig(**({"metric": "std", "alpha": 1.0} | change)))

    def carried(
        stitch: Stitch, layers: Sequence[int], share: float = 0.0
    ) -> Callable[[str], tuple[Vector, ...]]:
        def vectors(label: str) -> tuple[Vector, ...]:
            v = diff_mean(contrast(means_a, label, int(stitch.makers.get("layer_a", at[0])), share))
            return tuple(
                moved(v, stitch, "up", contrast(means_b, label, layer, share)) for layer in layers
            )

        return vectors

    def own(layers: Sequence[int]) -> Callable[[str], tuple[Vector, ...]]:
        return lambda label: tuple(diff_mean(means_b.of(label, layer)) for layer in layers)

    base, three = studio.stitch(), range(at[1], at[1] + 3)
    others = {}
    for name in (n.removeprefix("stitches/") for n in ws.names(prefix="stitches/")):
        if name != given.stitch:
            stitch = load_stitch(ws.path(f"stitches/{name}"))
            others[f"stitch {name}, its layer of B"] = (
                carried(stitch, [int(stitch.makers["layer_b"])]),
                1.5,
            )
    rows: dict[str, tuple[Callable[[str], tuple[Vector, ...]], float]] = {
        "own vectors, one layer": (own([at[1]]), 1.5),
        "own vectors, three layers, strength 1": (own(three), 1.0),
        f"transferred, {given.stitch}, one layer, strength 1.5": (carried(base, [at[1]]), 1.5),
        "strength 1": (carried(base, [at[1]]), 1.0),
        "strength 2": (carried(base, [at[1]]), 2.0),
        "three layers, strength 1": (carried(base, three), 1.0),
        "three layers, strength 1.5": (carried(base, three), 1.5),
        **others,
        "alpha 0.1": (carried(fitted(alpha=0.1), [at[1]]), 1.5),
        "least squares": (carried(fitted(method="lstsq", metric="raw", alpha=0.0), [at[1]]), 1.5),
        "whitened metric": (carried(fitted(metric="whiten"), [at[1]]), 1.5),
        "raw metric (the paper's)": (carried(fitted(metric="raw"), [at[1]]), 1.5),
        "negative: half English, half the others": (carried(base, [at[1]], 0.5), 1.5),
    }
    lines = []
    for name, (vectors, strength) in rows.items():
        cells = [
            (text, Lane(vectors(label), strength=strength), k)
            for label in labels
            for k, text in enumerate(texts)
        ]
        written, losses = zip(*respond_and_score(bench.b, cells, SAMPLING, name), strict=True)
        hits = np.array([detect(w.text)[0] for w in written]).reshape(len(labels), -1)
        rates = (hits == np.array([LANGUAGES[x][0] for x in labels])[:, None]).mean(1)
        good = " ".join(f"{LANGUAGES[x][0]} {r:.1f}" for x, r in zip(labels, rates, strict=True))
        note = f"{np.nanmean(losses):.2f} nats/token; {good}"
        lines.append(m.Line(name, float(rates.mean()), "in the language", note=note))
        m.say(f"{name}: {rates.mean():.2f}")
    settings = {
        "pair": given.pair,
        "languages": len(labels),
        "prompts": PROMPTS,
        "tokens": SAMPLING.tokens,
    }
    benchmark.show("What moves transferred steering", settings, lines)


if __name__ == "__main__":
    sys.exit(main())
