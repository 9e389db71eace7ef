"""Which layer and which text make the better features: SAEs of A side by side, on the same text.

A candidate is STITCH:WIDTH:KINDS, with `all` for every kind of text, such as
`L20-L9:4096:English+code`; the workspace's own SAE of that layer and width stands for `all` where
there is one. Every SAE is carried over by its stitch; features get labels and agreement as
`features build` gives them, on the part of the pair's text that `--text` names, each with a random
SAE beside it.
"""

from typing import Any

import numpy as np
from sae_lens import SAE

from benchmarks._measure import Benchmark, Line, quiet, say
from core.bench import Bench, open_pair
from core.features.agreement import measure_agreement
from core.features.alike import ALIKE
from core.features.compare import USED
from core.features.firings import WHOLE, read_both
from core.features.labels import LabelTexts, measure_labels
from core.features.vocabulary import Vocabulary
from core.models.pairs import LayerPair
from core.saes.crossing import Crossing
from core.saes.sae import load_sae
from core.saes.settings import SaeConfig
from core.saes.train import kept_sae

LABELLED = 0.5
"""The F1 from which a label says what a feature is."""
FIRINGS = 20
"""On the text read, below which a feature is left out of agreement."""
CANDIDATES = (
    "L15-L4:4096:all",
    "L15-L4:4096:English+code",
    "L20-L9:4096:English+code",
    "L20-L9:1024:English+code",
)


def sae_of(bench: Bench, layers: LayerPair, width: int, kinds: list[str], epochs: int) -> SAE[Any]:
    """The workspace's, or one that is trained now and kept in the user's cache."""
    name = f"saes/L{layers.a}-{width}"
    if not kinds and name in bench.workspace.manifest().artifacts:
        return load_sae(bench.workspace.path(name), bench.pair.a.d_model)
    config = SaeConfig(width=width, k=48, epochs=epochs, lr=2e-3)
    return kept_sae(bench, "a", layers.a, config, None, kinds)


def measure(pair: str, text: str, candidate: str, epochs: int) -> list[Line]:
    stitch, width, kinds = candidate.split(":")
    whole = open_pair(pair)
    makers = whole.workspace.entry(f"stitches/{stitch}").makers
    layers = LayerPair(a=makers["layer_a"], b=makers["layer_b"])
    chosen = [] if kinds == "all" else kinds.split("+")
    sae = sae_of(whole, layers, int(width), chosen, epochs)
    variants = Crossing(whole, sae, stitch).variants()

    part = Bench(whole.pair.model_copy(update={"corpus": text}))
    training, held_out = (read_both(part, layers, split) for split in ("select", "held-out"))
    vocabulary = Vocabulary()
    learned = vocabulary.learn(training, part.a)
    texts = LabelTexts(vocabulary, learned, vocabulary.read(held_out, part.a))
    firings = {name: held_out.firings(*variants[name], desc=name) for name in USED}
    chosen_on = {name: training.firings(*variants[name], desc=name) for name in USED[:2]}

    labels = measure_labels(texts, chosen_on, firings)
    agreement = measure_agreement(held_out, firings)
    agreement = agreement.loc[(agreement.kind == WHOLE) & (agreement.firings_a >= FIRINGS)]
    rows = {
        "labelled in A, strong firings": labels.f1_a.ge(LABELLED),
        "labelled in B, strong firings": labels.f1_b.ge(LABELLED),
        "labelled in A, all firings": labels.all_a.ge(LABELLED),
        "labelled in A, random SAE": labels.random.ge(LABELLED),
        f"agreement ≥ {ALIKE}": agreement.agreement.ge(ALIKE),
        f"agreement ≥ {ALIKE}, random SAE": agreement.random.ge(ALIKE),
        "alive": labels.firings_a.ge(1),
    }
    lines = [
        Line(f"{candidate}: {what}", 100 * float(np.mean(share)), "% of features")
        for what, share in rows.items()
    ]
    median = float(agreement.agreement.median())
    return [*lines, Line(f"{candidate}: agreement, median", median)]


def main() -> None:
    p = Benchmark("sae_study", __doc__)
    p.add("--pair", default="smollm2-gemma3", help="a pair with those stitches")
    p.add("--text", default="wheel:eng,coding", help="a corpus; its held-out split is measured on")
    p.add("--epochs", type=int, default=8, help="passes over the fit split, where one is trained")
    p.add("--candidates", nargs="+", default=list(CANDIDATES), help="STITCH:WIDTH:KINDS")
    args = p.options()
    quiet()
    lines = []
    for candidate in args.candidates:
        lines += measure(args.pair, args.text, candidate, args.epochs)
        say("\n".join(f"{line.what}: {line.measured}" for line in lines[-8:]))
    settings = {"pair": args.pair, "text": args.text, "epochs": args.epochs}
    p.show("sae_study: features by the layer and text of their SAE", settings, lines)


if __name__ == "__main__":
    main()
