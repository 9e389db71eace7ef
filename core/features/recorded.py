"""Features in texts that both models have read already: from their streams on disk, without a
pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from core.activations.harvest import windows
from core.features.examples import Examples, gather_into, numbered, places_in
from core.features.firings import Text
from core.features.reading import Read, activations
from core.features.shares import ALONE, Share
from core.models.pairs import Side
from core.progress import Progress
from core.text.corpus import Document

if TYPE_CHECKING:
    from sae_lens import SAE


class Place(NamedTuple):
    """A window of one of several texts: its number there, and that of its first document in all."""

    text: Text
    number: int
    first: int
    documents: Sequence[Document]


@dataclass(frozen=True)
class Recorded:
    """Texts as one model read them, one after another."""

    texts: Sequence[Text]
    side: Side

    @cached_property
    def documents(self) -> list[Document]:
        return [document for text in self.texts for document in text.documents]

    @cached_property
    def windows(self) -> list[Place]:
        places, first = [], 0
        for text in self.texts:
            for number, documents in enumerate(windows(text.documents)):
                places.append(Place(text, number, first, documents))
                first += len(documents)
        return places

    @property
    def limit(self) -> float:
        """The norm above which a row is an outlier, of the first window with a row."""
        layers = self.texts[0].layers
        layer = layers.a if self.side == "a" else layers.b
        return self.texts[0].recording.limits[f"{self.side}{layer}"]

    def read(
        self,
        sae: "SAE[Any]",
        desc: str,
        chosen: Sequence[int],
        only: NDArray[np.integer] | None = None,
    ) -> Iterator[Read]:
        """The features of an SAE in the `chosen` ones of the windows, as
        `core.features.reading.read` gives them; of some documents `only`, by their numbers."""
        limit = self.limit
        whole = sum(len(d.text) for k in chosen for d in self.windows[k].documents)
        with Progress(desc, whole, "chr") as bar:
            for k in chosen:
                text, number, first, documents = self.windows[k]
                # Outliers of the other model are none of this one.
                window = text.window(number, usual=False)
                document = window.document + first
                inside = np.isin(document, document if only is None else only)
                rows = window.rows(self.side)[torch.from_numpy(inside)].float()
                columns = (document, window.positions(self.side), window.end)
                at, position, end = (column[inside] for column in columns)
                yield activations(sae, rows, (at, position, end), limit)
                bar.advance(sum(len(d.text) for d in documents))

    def examples(
        self,
        sae: "SAE[Any]",
        desc: str,
        share: Share = ALONE,
    ) -> Examples:
        """The contexts of every feature, over a share of the texts."""
        examples = Examples(sae.cfg.d_sae)
        left = share.begin(examples, [window.number for window in self.windows])
        gather_into(examples, self.read(sae, desc, left), share)
        return examples

    def places(
        self,
        sae: "SAE[Any]",
        places: pd.DataFrame,
        desc: str,
    ) -> pd.DataFrame:
        """Places of documents as the model reads them; see
        `core.features.examples.places_in`."""
        wanted = numbered(places, self.documents)
        numbers = wanted.number.unique()
        chosen = [
            k
            for k, window in enumerate(self.windows)
            if np.isin(window.first + np.arange(len(window.documents)), numbers).any()
        ]
        return places_in(wanted, self.read(sae, desc, chosen, numbers))
