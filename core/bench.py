"""A pair with its models, corpus and workspace at hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.activations.gram import Gram
from core.activations.harvest import Ledger, harvest_config, harvest_moments
from core.activations.recording import Recording, harvest_rows
from core.config import BuildConfig
from core.models.live import LiveModel
from core.models.loading import load_shared
from core.models.pairs import LayerPair, PairSpec, Side, get_pair
from core.text.corpus import Corpus, Split, load_corpus, of_kinds
from core.workspace.disk import fingerprint, only_one
from core.workspace.store import Workspace

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Bench:
    """A pair with its models, corpus and workspace at hand."""

    pair: PairSpec
    config: BuildConfig = field(default_factory=BuildConfig)
    private: Path | None = None
    """What one person brought, if that is to be seen; see `Workspace`."""

    @cached_property
    def a(self) -> LiveModel:
        return load_shared(self.pair.a)  # type: ignore[arg-type]

    @cached_property
    def b(self) -> LiveModel:
        return load_shared(self.pair.b)  # type: ignore[arg-type]

    @cached_property
    def corpus(self) -> Corpus:
        return load_corpus(self.pair.corpus)

    @cached_property
    def workspace(self) -> Workspace:
        return Workspace(self.pair.key, private=self.private)

    @property
    def makers(self) -> dict[str, Any]:
        return {
            "pair": self.pair.key,
            "a": self.a.makers,
            "b": self.b.makers,
            "corpus": self.corpus.fingerprint,
        }

    def moments(
        self,
        split: Split,
        pairs: Sequence[LayerPair],
        positions: int | None = None,
    ) -> tuple[dict[str, Gram], dict[str, Ledger]]:
        config = harvest_config(self.a, self.b, self.corpus.fingerprint, split, positions)
        documents = self.corpus.split(split)
        return harvest_moments(
            self.a, self.b, documents, pairs, config, desc=f"reading the {split} split"
        )

    def rows(
        self,
        side: Side,
        layer: int,
        split: Split,
        positions: int | None = None,
        kinds: Sequence[str] = (),
    ) -> Recording:
        """The residual stream of one model before `layer`, recorded at positions that pair up with
        the other model (so not on the bytes of scripts that it spells out): what an SAE is trained
        on. Of these `kinds` of text alone, where some are named.

        Raises StitchLensError for a kind that the corpus does not hold.
        """
        model, other = (self.a, self.b) if side == "a" else (self.b, self.a)
        setup = {
            "model": model.makers,
            "paired": other.makers["tokenizer"],
            "corpus": self.corpus.fingerprint,
            "split": split,
            "positions": positions,
        }
        documents = self.corpus.split(split)
        if kinds:
            documents = of_kinds(documents, kinds)
            setup["kinds"] = sorted(kinds)

        desc = f"recording {side.upper()} before layer {layer}"
        return harvest_rows(model, documents, layer, setup, desc, other)

    def current(
        self,
        name: str,
        makers: dict[str, Any],
    ) -> bool:
        """Whether the workspace holds `name` made from just these makers."""
        if not self.workspace.exists:
            return False
        entry = self.workspace.manifest().artifacts.get(name)
        return entry is not None and fingerprint(entry.makers) == fingerprint(makers)

    def put_tables(
        self,
        tables: Mapping[str, "pd.DataFrame"],
        makers: dict[str, Any],
    ) -> None:
        """Put tables that belong together into the workspace, unless they are current: the first of
        several processes that made them does."""
        with only_one(self.pair.key, "tables", wait=True):
            if all(self.current(name, makers) for name in tables):
                return
            for name, table in tables.items():
                self.workspace.put_table(name, table, makers)


def open_pair(
    key: str,
    config: BuildConfig | None = None,
    private: Path | None = None,
) -> Bench:
    """The bench of a pair by its key, such as `nano` or `smollm2-gemma3`; models load when they are
    first asked for.

    `private` is the folder of one person's own artifacts. Raises StitchLensError for a key that no
    pair has.
    """
    return Bench(get_pair(key), config or BuildConfig(), private)
