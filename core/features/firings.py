"""Which features fire where: activations of both models at the paired positions of one text, kept
sparse.

The models read the text once. Their residual streams at paired positions lie on disk, and every SAE
that is asked for is encoded from there, so that a control costs a product and no pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from core.activations.harvest import WINDOW, harvest_config
from core.activations.recording import PLACES, Recording, harvest_places
from core.activations.shards import UNDIVIDED, Shard
from core.bench import Bench
from core.models.pairs import LayerPair, Side
from core.progress import Progress
from core.text.corpus import Document, Split

if TYPE_CHECKING:
    from sae_lens import SAE

ENCODED = 2**26
"""Activations held at a time, active or not: 268 MB."""
STRONG = 0.25
"""A firing is strong above this share of the feature's largest activation in the text."""
WHOLE = "all text"
"""The kind that stands for every position."""

Firings = sp.csc_matrix
"""[positions, features] float32: activations, zeros left out."""


class Window(NamedTuple):
    """Paired positions of a window of documents: both streams h_a [n, d_A] and h_b [n, d_B], and of
    each position [n] the number of its document in the window, its place in the tokens of A and of
    B, and the character up to which both have read."""

    h_a: Tensor
    h_b: Tensor
    document: NDArray[np.int32]
    at_a: NDArray[np.int32]
    at_b: NDArray[np.int32]
    end: NDArray[np.int32]

    def rows(self, side: Side) -> Tensor:
        return self.h_a if side == "a" else self.h_b

    def positions(self, side: Side) -> NDArray[np.int32]:
        return self.at_a if side == "a" else self.at_b


@dataclass(frozen=True)
class Text:
    """The paired positions of some documents, in their order, with both residual streams on
    disk."""

    documents: Sequence[Document]
    recording: Recording
    layers: LayerPair

    def window(
        self,
        number: int,
        usual: bool = True,
    ) -> Window:
        """The paired positions of one window of documents; outliers too, unless only what is
        `usual` is asked for."""
        stored = self.recording.window(number)
        if usual:
            inside = stored["usual"]
            stored = {name: column[inside] for name, column in stored.items()}
        columns = {name: stored[name].numpy() for name in PLACES}
        return Window(stored["h_a"], stored["h_b"], **columns)

    @cached_property
    def places(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """Of each position [n] the number of its document, and its token's number there in A and in
        B."""
        columns: list[list[NDArray[np.int32]]] = [[], [], []]
        shards = self.recording.in_order(("usual", "document", "at_a", "at_b"))
        for number, (usual, *numbers) in enumerate(shards):
            within, at_a, at_b = (x[usual].numpy() for x in numbers)
            columns[0].append(within + np.int32(number * WINDOW))
            columns[1].append(at_a)
            columns[2].append(at_b)
        document, at_a, at_b = (np.concatenate(parts) for parts in columns)
        return document, at_a, at_b

    @property
    def n(self) -> int:
        return len(self.places[0])

    @cached_property
    def kinds(self) -> dict[str, NDArray[np.intp]]:
        """Positions by kind of text, all of them first."""
        document = self.places[0]
        kinds = np.array([d.kind for d in self.documents], dtype=object)[document]
        names = sorted(set(kinds.tolist()))
        apart = {name: np.flatnonzero(kinds == name) for name in names}
        return {WHOLE: np.arange(self.n)} | apart

    def streams(
        self,
        side: Side,
    ) -> Iterator[Float[Tensor, "n d"]]:
        """The residual stream of one model, in windows, float32."""
        for number in range(len(self.recording.shards)):
            yield self.window(number).rows(side).float()

    def firings(
        self,
        side: Side,
        sae: "SAE[Any]",
        desc: str,
    ) -> Firings:
        """Where the features of an SAE of one model fire."""
        with Progress(desc, self.n, "pos") as bar:
            parts = []
            for rows in self.streams(side):
                parts.append(fired(sae, rows))
                bar.advance(len(rows))
        return sp.csc_matrix(sp.vstack(parts, format="csr"))


def fired(
    sae: "SAE[Any]",
    rows: Float[Tensor, "n d"],
) -> sp.csr_matrix:
    """Positive activations [n, features] of an SAE, without the zeros; no more than ENCODED of them
    are formed at a time."""
    features = sae.cfg.d_sae
    parts = [sp.csr_matrix((0, features), dtype=np.float32)]
    for part in rows.split(max(1, ENCODED // features)):
        with torch.inference_mode():
            activations = torch.relu(sae.encode(part)).float()

        at, feature = activations.nonzero(as_tuple=True)
        values = activations[at, feature].numpy()
        shape = (len(part), features)
        parts.append(sp.csr_matrix((values, (at.numpy(), feature.numpy())), shape=shape))
    return sp.csr_matrix(sp.vstack(parts, format="csr"))


def read_both(
    bench: Bench,
    layers: LayerPair,
    split: Split,
    positions: int | None = None,
    shard: Shard = UNDIVIDED,
) -> Text:
    """A split as both models read it before `layers`, or its first `positions` paired positions.
    Read once and kept in the user's cache; a killed reading goes on. One `shard` of several reads
    its windows alone.

    Raises StitchLensError where no position pairs up.
    """
    documents = bench.corpus.split(split)
    config = harvest_config(
        bench.a,
        bench.b,
        bench.corpus.fingerprint,
        split,
        positions,
    )
    desc = f"both models read the {split} split"
    recording = harvest_places(
        bench.a,
        bench.b,
        documents,
        layers,
        config,
        desc,
        shard,
    )
    return Text(documents, recording, layers)


def strong(firings: Firings) -> Firings:
    """The firings above STRONG of their feature's largest."""
    largest = firings.max(axis=0).toarray()[0]
    feature = np.repeat(np.arange(features_of(firings)), np.diff(firings.indptr))
    weak = firings.data <= STRONG * largest[feature]

    strongest = firings.copy()
    strongest.data = np.where(weak, 0, firings.data)
    strongest.eliminate_zeros()
    return strongest


def features_of(firings: Firings) -> int:
    """How many columns there are."""
    return firings.shape[1]  # type: ignore[index]


def positions_of(firings: Firings) -> int:
    """How many rows there are."""
    return firings.shape[0]  # type: ignore[index]


def counts(firings: Firings) -> NDArray[np.int64]:
    """At how many positions each feature fires [features]."""
    return np.diff(firings.indptr).astype(np.int64)
