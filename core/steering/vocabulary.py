"""Which tokens a model says in a corpus: the others it knows but has no text for."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from core.models.live import LiveModel
from core.steering.generate import stop_tokens
from core.text.corpus import Corpus
from core.text.reading import clean
from core.workspace.disk import beside, fingerprint
from core.workspace.places import user_cache

DOCUMENTS = 500
"""Texts that are made tokens at a time."""


def said(
    model: LiveModel,
    corpus: Corpus,
    reading: Callable[[int, int], None] = lambda done, of: None,
) -> Bool[np.ndarray, " rows"]:
    """Whether the corpus, with lines that end with LF, holds each token of the model. Kept in the
    user's cache: reading takes seconds, and `reading` hears how many documents are done."""
    key = fingerprint([model.tokenizer_hash, model.rows, corpus.fingerprint])
    path = user_cache() / "vocabulary" / f"{key}.npy"
    if path.exists():
        return np.load(path, allow_pickle=False)

    held = np.zeros(model.rows, dtype=bool)
    documents = corpus.documents
    for begin in range(0, len(documents), DOCUMENTS):
        some = documents[begin : begin + DOCUMENTS]
        texts = [clean(document.text) for document in some]
        tokens = model.tokenizer(texts, add_special_tokens=False)
        for ids in tokens["input_ids"]:
            held[[token for token in ids if token < model.rows]] = True
        reading(min(begin + DOCUMENTS, len(documents)), len(documents))

    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as temporary, temporary.open("wb") as file:
        np.save(file, held)
    return held


def never_said(model: LiveModel, corpus: Corpus | None) -> Int[Tensor, " n"]:
    """Ids that are left out of what is drawn: tokens that the corpus never holds (without one, the
    special ones); never those at which a text ends."""
    if corpus is None:
        special = model.special
        silent = np.zeros(model.rows, dtype=bool)
        silent[special[special < model.rows]] = True
    else:
        silent = ~said(model, corpus)

    ends = [token for token in stop_tokens(model) if token < model.rows]
    silent[ends] = False
    return torch.from_numpy(np.flatnonzero(silent))
