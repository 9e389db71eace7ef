"""Two models that have not been stitched yet: what they are, how their tokens pair up, what a build
will take."""

from pathlib import Path
from typing import Any

import torch

from core.config import Frozen
from core.errors import StitchLensError
from core.models.align import encode_both
from core.models.configuration import look, open_empty, weights_size
from core.models.live import MAX_TOKENS, Reader, limits_of, some
from core.models.loading import has_sdpa, tokenizer_of
from core.models.pairs import (
    LayerPair,
    ModelSpec,
    PairSpec,
    known_pairs,
)
from core.text.corpus import Corpus, check_splits, load_corpus
from core.workspace import demonstration
from core.workspace.disk import beside
from core.workspace.places import KEY, SPEC, workspaces_dir

SAMPLE = 120
"""Documents whose tokens are paired up."""


class Found(Frozen):
    """What a model turned out to be, from its configuration, its tokenizer and the headers of its
    weights."""

    spec: ModelSpec
    architecture: str
    vocabulary: int
    """Rows of its embedding."""
    tokenizer: int
    """Ids of its tokenizer, from 0 to the largest."""
    context: int
    """Tokens that it reads at once; longer texts are cut there."""
    parameters: int
    bytes: int
    """Of its weights on disk, or to download."""
    here: bool
    """Whether they are on this machine already."""
    tokens_per_character: float
    notes: tuple[str, ...] = ()

    @property
    def body(self) -> int:
        """Parameters that every token is multiplied with, the embeddings left out."""
        return max(self.parameters - self.vocabulary * self.spec.d_model, self.parameters // 20)


class Prospect(Frozen):
    """A pair that could be built."""

    pair: PairSpec
    a: Found
    b: Found
    same_tokenizer: bool
    share_a: float
    """Of A's tokens that pair up with one of B's, on a sample of the corpus."""
    share_b: float
    characters: int
    """Of the corpus."""
    notes: tuple[str, ...] = ()


def prospect(
    ref_a: str,
    ref_b: str,
    corpus: str = "wheel",
    key: str | None = None,
    layers: tuple[LayerPair, ...] = (),
) -> Prospect:
    """What two models are and how they would pair up; nothing is kept and no weight is loaded.

    `key` names the pair, made of both models' names by default; without `layers`, the middle of A
    meets the layer that SVCCA picks in B. Raises StitchLensError where a model cannot be used, a
    layer is out of range, the key is unfit or taken, or their tokens do not pair up; and in a
    demonstration, which opens no folder or hub id that a visitor names.
    """
    demonstration.refuse("a model")
    looked = [look(ref) for ref in (ref_a, ref_b)]
    (spec_a, _), (spec_b, _) = looked
    if spec_a == spec_b:
        raise StitchLensError(f"{spec_a.title} twice", "two models", "name another one")
    if spec_a.key == spec_b.key:
        spec_b = spec_b.model_copy(update={"key": f"{spec_b.key}-b"})
        looked[1] = (spec_b, looked[1][1])
    key = key or f"{spec_a.key}-{spec_b.key}"[:64].strip("-._")
    check_key(key)
    text = load_corpus(corpus)
    check_splits(text)
    sample = _sample(text)
    models, readers = [], []
    for ref, (spec, folder) in zip((ref_a, ref_b), looked, strict=True):
        models.append(open_empty(ref, spec, folder))
        place = folder or spec.sources[-1].ref
        readers.append(
            Reader(tokenizer_of(place, spec.title), spec.bos, Path(place), limits_of(models[-1][0]))
        )
    both = encode_both(readers[0], readers[1], sample)
    same = readers[0].tokenizer_hash == readers[1].tokenizer_hash
    usable = [sum(int(e.usable.sum()) for e in encoded) for encoded in (both.a, both.b)]
    paired = sum(len(own) for own, _ in both.paired)
    if not paired:
        raise StitchLensError(
            "no token of A that pairs up with one of B", "text that both read", "use another corpus"
        )
    models_found = []
    for (spec, folder), (hf, unused), reader, n in zip(
        looked, models, readers, usable, strict=True
    ):
        parameters, size = weights_size(spec, folder)
        models_found.append(
            Found(
                spec=spec,
                architecture=hf.config.model_type,
                vocabulary=reader.rows,
                tokenizer=max(reader.tokenizer.get_vocab().values()) + 1,
                context=reader.context,
                parameters=parameters,
                bytes=size,
                here=folder is not None,
                tokens_per_character=n / max(1, sum(map(len, sample))),
                notes=tuple(_own_notes(spec, hf, unused, reader)),
            )
        )
    pair = PairSpec(
        key=key,
        title=f"{spec_a.title} and {spec_b.title}",
        a=spec_a,
        b=spec_b,
        layer_pairs=layers,
        corpus=corpus,
        family="within-family" if same else "cross-family",
    )
    for one in layers:
        pair.check_layers(one.a, one.b)
    return Prospect(
        pair=pair,
        a=models_found[0],
        b=models_found[1],
        same_tokenizer=same,
        share_a=paired / usable[0],
        share_b=paired / usable[1],
        characters=text.characters,
        notes=tuple(_notes(pair, models_found, text, paired / usable[0], same)),
    )


def _sample(corpus: Corpus) -> list[str]:
    documents = corpus.split("select")
    return [d.text for d in documents[:: max(1, len(documents) // SAMPLE)]][:SAMPLE]


def _own_notes(
    spec: ModelSpec,
    hf: Any,
    unused: list[str],
    reader: Reader,
) -> list[str]:
    """What is unusual about one model."""
    out = []
    if unused:
        out.append(f"{spec.title}: {some(unused)} in its weights is of another task and left out.")
    if reader.context < MAX_TOKENS:
        out.append(
            f"{spec.title} reads {reader.context:,} tokens at once: longer texts are cut there."
        )
    if reader.bos is None:
        out.append(
            f"{spec.title} has no first token of its own: the first token of every text is masked"
            " instead."
        )
    if not has_sdpa(hf):
        kind = hf.config.model_type
        out.append(
            f"{spec.title} is steered with its plain attention: transformers has no faster one for"
            f" {kind}."
        )
    return out


def _notes(
    pair: PairSpec,
    found: list[Found],
    corpus: Corpus,
    share: float,
    same: bool,
) -> list[str]:
    out = [note for one in found for note in one.notes]
    if corpus.reading is not None:
        out.append(f"The text: {corpus.reading}.")
    if pair.a.d_model > pair.b.d_model:
        out.append(
            "A is the wider model: the paper stitches from the smaller to the larger; consider"
            " swapping them."
        )
    if pair.a.d_model == pair.b.d_model:
        out.append(
            "Both residual streams are equally wide: how the matrices of a stitch that others made"
            " lie follows from their names, else from which reading fits the text; `stitch import"
            " --orientation` says it outright."
        )
    if not same:
        out.append(
            f"The tokenizers differ: {share:.0%} of A's tokens end where one of B's does; the rest"
            " is left out."
        )
    if any(one.parameters > 2e9 for one in found) and not torch.cuda.is_available():
        out.append("Over two billion parameters without a GPU: expect hours.")
    return out


def check_key(key: str) -> None:
    """Raises StitchLensError where a pair's key is unfit for a folder, or taken."""
    if not KEY.fullmatch(key):
        raise StitchLensError(
            f"the key '{key}'",
            "up to 64 small letters, digits, '.', '_' and '-', the first a letter or digit",
            "choose another",
        )
    if key in known_pairs() or (workspaces_dir() / key).exists():
        raise StitchLensError(f"a pair named '{key}'", "a key that is free", "choose another")


def register(pair: PairSpec) -> Path:
    """Keep a new pair's spec beside its workspace to come. Raises StitchLensError where its key is
    unfit or taken, and in a demonstration."""
    demonstration.refuse("a new pair")
    check_key(pair.key)
    path = workspaces_dir() / pair.key / SPEC
    with beside(path) as part:
        part.write_text(pair.model_dump_json(indent=1) + "\n", "utf-8")
    return path
