"""What a feature is called and whom it resembles: agreement, labels and twins of an SAE of the
workspace, from one reading of each text."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

from core.bench import Bench
from core.config import Frozen
from core.features import alike
from core.features.agreement import measure_agreement
from core.features.examples import shared_places
from core.features.firings import Firings, Text, read_both
from core.features.labels import LabelTexts, measure_labels
from core.features.recorded import Recorded
from core.features.search import index_of
from core.features.twins import measure_twins
from core.features.vocabulary import Vocabulary
from core.models.pairs import Side
from core.saes.crossing import Crossing
from core.saes.sae import load_sae, random_sae
from core.saes.train import keep, kept_sae, sae_makers
from core.stitches.transfer import transfer_vector
from core.text.corpus import Split
from core.workspace.disk import fingerprint
from core.workspace.store import has

if TYPE_CHECKING:
    from sae_lens import SAE

OWN_SAES = "own_saes"
"""The group of B's own SAEs, by the names of those of A that they were trained like."""
USED = (
    "original",
    "random SAE",
    "transferred",
    "shuffled-pair stitch",
    "random SAE, transferred",
)
"""Of `Crossing.variants`."""


class CompareConfig(Frozen):
    """How much text is read."""

    positions: int | None = None
    """Paired held-out positions that everything is measured on; None reads the split whole."""
    training: int | None = None
    """Paired positions of the select split that labels are chosen on; None reads it whole."""
    seed: int = 0


class Comparison:
    """An SAE of A and its transfer, with the texts that they are compared on.

    Raises StitchLensError where SAE and stitch belong to different layers.
    """

    def __init__(
        self,
        bench: Bench,
        sae_name: str,
        stitch_name: str,
        config: CompareConfig | None = None,
    ) -> None:
        self.bench, self.sae_name = bench, sae_name
        self.config = config or CompareConfig()
        self.crossing = Crossing(bench, sae_name, stitch_name)
        self._firings: dict[tuple[str, str], Firings] = {}

    @property
    def makers(self) -> dict[str, Any]:
        return self.bench.makers | self.crossing.makers | self.config.model_dump()

    @cached_property
    def saes(self) -> dict[str, tuple[Side, "SAE[Any]"]]:
        """(the model it is for, SAE) by name."""
        variants = self.crossing.variants(self.config.seed)
        return {name: variants[name] for name in USED}

    def whole(self, split: Split) -> Text:
        """A split, read whole."""
        return read_both(self.bench, self.crossing.layers, split)

    @cached_property
    def held_out(self) -> Text:
        layers = self.crossing.layers
        return read_both(
            self.bench,
            layers,
            "held-out",
            self.config.positions,
        )

    @cached_property
    def training(self) -> Text:
        layers = self.crossing.layers
        return read_both(
            self.bench,
            layers,
            "select",
            self.config.training,
        )

    def firings(
        self,
        name: str,
        text: Text,
    ) -> Firings:
        """Those of an SAE by its name; encoded once a text."""
        split = "held-out" if text is self.held_out else "select"
        if (name, split) not in self._firings:
            side, sae = self.saes[name]
            desc = f"features of the {split} split, {name}"
            self._firings[name, split] = text.firings(side, sae, desc)
        return self._firings[name, split]

    @cached_property
    def own_sae(self) -> "SAE[Any]":
        """B's own SAE, trained like A's on as much text: kept as `own_saes/` of A's SAE."""
        bench = self.bench
        name = f"{OWN_SAES}/{self.sae_name}"
        trained_like = self.crossing.own_like()
        makers = sae_makers(*trained_like)
        makers |= {"sae_name": self.sae_name, "stitch_name": self.crossing.stitch_name}
        if not bench.current(name, makers):
            sae = kept_sae(*trained_like)
            keep(
                bench,
                name,
                sae,
                makers,
            )
        return load_sae(bench.workspace.path(name), bench.pair.b.d_model)

    def twins_makers(self) -> dict[str, Any]:
        """What is measured with B's own SAE was made from that as well."""
        entry = self.bench.workspace.entry(f"{OWN_SAES}/{self.sae_name}")
        return self.makers | {"own_sae": fingerprint(entry.makers)}

    def twins(self) -> None:
        """Keep `twins/` of this SAE, unless it is current; train B's own SAE first, where it is
        missing."""
        name = f"twins/{self.sae_name}"
        own = self.own_sae
        makers = self.twins_makers()
        if self.bench.current(name, makers):
            return

        text = self.held_out
        self.saes["native"] = ("b", own)
        self.saes["random native"] = ("b", random_sae(own, self.config.seed))
        used = ("original", "random SAE", "native", "random native")
        firings = {variant: self.firings(variant, text) for variant in used}
        carried = transfer_vector(self.crossing.sae.W_dec.float(), self.crossing.stitch)
        rows = own.W_dec.float().numpy()
        table = measure_twins(
            text,
            firings,
            carried.numpy(),
            rows,
            self.config.seed,
        )
        self.bench.workspace.put_table(name, table, makers)

    def twins_contexts(self) -> None:
        """Keep `together_own/` of this SAE, unless it is current: the contexts that are shown of
        each feature (`core.features.examples.shared_places`) as its twin in B reads them. Nothing,
        where no contexts were measured."""
        bench, ws = self.bench, self.bench.workspace
        name, makers = f"together_own/{self.sae_name}", self.twins_makers()
        in_a, in_b = (f"examples_{side}/{self.sae_name}" for side in ("a", "b"))
        if bench.current(name, makers) or not (has(ws, in_a) and has(ws, in_b)):
            return

        places = shared_places(ws.table(in_a), ws.table(in_b))
        twins = alike.twins(ws, self.sae_name).set_index("feature").twin
        places = places.assign(reads=places.feature.map(twins))
        places = places.loc[places.reads >= 0]
        recorded = Recorded([self.whole("held-out"), self.whole("select")], "b")
        table = recorded.places(self.own_sae, places, "the same text as twins read it")
        ws.put_table(name, table, makers)

    @cached_property
    def label_texts(self) -> LabelTexts:
        vocabulary = Vocabulary()
        training = vocabulary.learn(self.training, self.bench.a)
        held_out = vocabulary.read(self.held_out, self.bench.a)
        return LabelTexts(vocabulary, training, held_out)

    def labels(self) -> None:
        """Keep `labels/` of this SAE, unless it is current."""
        name = f"labels/{self.sae_name}"
        if self.bench.current(name, self.makers):
            return

        own = ("original", "random SAE")
        training = {variant: self.firings(variant, self.training) for variant in own}
        scored = (*own, "transferred")
        held_out = {variant: self.firings(variant, self.held_out) for variant in scored}
        table = measure_labels(
            self.label_texts,
            training,
            held_out,
            self.config.seed,
        )
        self.bench.workspace.put_table(name, table, self.makers)

    def agreement(self) -> None:
        """Keep `agreement/` of this SAE, unless it is current."""
        name = f"agreement/{self.sae_name}"
        if self.bench.current(name, self.makers):
            return

        text = self.held_out
        firings = {variant: self.firings(variant, text) for variant in USED}
        table = measure_agreement(text, firings, self.config.seed)
        self.bench.workspace.put_table(name, table, self.makers)


def compare(
    bench: Bench,
    sae_name: str,
    stitch_name: str,
    config: CompareConfig | None = None,
) -> None:
    """Measure agreement, labels and native twins of an SAE of the workspace, and keep the tables
    `agreement/`, `labels/`, `twins/` and `together_own/` of that SAE, and B's own SAE as
    `own_saes/`. Steps that are there and current are kept.

    Raises StitchLensError where SAE and stitch belong to different layers.
    """
    comparison = Comparison(
        bench,
        sae_name,
        stitch_name,
        config,
    )
    comparison.agreement()
    comparison.labels()
    comparison.twins()
    comparison.twins_contexts()
    if has(bench.workspace, f"features/{sae_name}"):
        index_of(bench.workspace, sae_name, bench.pair.corpus)  # so that no visitor waits for it
