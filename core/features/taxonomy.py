"""Semantic and structural features: which stay active when a sentence changes its content, not its
structure (5.1, H).

A rewriter is a callable (sentence, k) -> k rewrites that keep structure and function words. A
feature that is active in the sentence and in all its rewrites is structural there; its consistency
is the share of such sentences.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from core.activations.harvest import record
from core.features.speech import tagger
from core.models.live import LiveModel
from core.progress import Progress
from core.text.corpus import Document

if TYPE_CHECKING:
    from sae_lens import SAE

REWRITES = 5
"""k of the paper."""
SENTENCE = re.compile(r"[^.!?\n]+[.!?](?=\s|$)")
WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*|\d+(?:[.,]\d+)*|[^\w\s]")
SHORTEST, LONGEST = 6, 30
"""Words of a sentence that is used."""
CONTENT = ("NN", "NP0", "AJ", "VV")
"""CLAWS-5 tags of content words: nouns, names, adjectives, lexical verbs; adverbs (AV0) count where
they end in -ly."""
PROMPT = """Rewrite the sentence so that it is about something entirely different while its form stays the same.
Keep every function word (such as "the", "and", "while", "of"), the punctuation, the word order and the capital letters.
Replace every noun, verb, adjective and adverb by a word of the same form from an unrelated field (dog -> radio).
Answer with the new sentence alone.

Sentence: {sentence}"""  # noqa: E501


Rewriter = Callable[[str, int], list[str]]
"""(sentence, k) to k rewrites."""


def english_sentences(documents: Sequence[Document], most: int | None = None) -> list[str]:
    """Sentences of SHORTEST to LONGEST words from English documents, in their order, exact repeats
    left out."""
    found: dict[str, None] = {}
    for d in documents:
        if d.kind == "English":
            for text in SENTENCE.findall(d.text):
                if SHORTEST <= len(re.findall(r"[A-Za-z]+", text)) <= LONGEST:
                    found[text.strip()] = None
        if most is not None and len(found) >= most:
            break
    return list(found)[:most]


def is_content(word: str, tag: str) -> bool:
    return tag.startswith(CONTENT) or (tag == "AV0" and word.endswith("ly"))


class TagRewriter:
    """Replaces each content word by another of the same tag, drawn by its frequency in `documents`;
    inflection is part of the tag, capitals are kept, everything else stays as it is. Seeded: a
    sentence always gives the same rewrites."""

    def __init__(
        self,
        documents: Sequence[Document],
        seed: int = 0,
        sentences: int = 4000,
    ) -> None:
        self._seed = seed
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for sentence in english_sentences(documents, sentences):
            for _, word, tag in self.tagged(sentence):
                if is_content(word.lower(), tag):
                    counts[tag][word if tag == "NP0" else word.lower()] += 1
        self.words: dict[str, tuple[list[str], NDArray[np.float64]]] = {}
        for tag, of_tag in counts.items():
            shares = np.array(list(of_tag.values()), dtype=float)
            self.words[tag] = (list(of_tag), shares / shares.sum())

    def tagged(self, sentence: str) -> list[tuple[int, str, str]]:
        """(offset, word, CLAWS-5 tag)."""
        spans = [(m.start(), m.group()) for m in WORD.finditer(sentence)]
        tags = tagger().tag_sent(
            [w for _, w in spans], taglevel=0
        )  # tags alone: lemmas take as long again
        return [(at, word, str(tag)) for (at, word), tag in zip(spans, tags, strict=True)]

    def __call__(self, sentence: str, k: int = REWRITES) -> list[str]:
        tagged = self.tagged(sentence)
        rng = np.random.default_rng([self._seed, *sentence.encode()])
        out = []
        for _ in range(k):
            parts, end = [], 0
            for at, word, tag in tagged:
                parts.append(sentence[end:at])
                end = at + len(word)
                parts.append(self._other(word, tag, rng) if is_content(word.lower(), tag) else word)
            out.append("".join(parts) + sentence[end:])
        return out

    def _other(
        self,
        word: str,
        tag: str,
        rng: np.random.Generator,
    ) -> str:
        """A word of the tag that is not `word`; `word` itself where there is none."""
        words, shares = self.words.get(tag, ([], np.zeros(0)))
        for _ in range(20):
            if not words:
                break
            drawn = words[int(rng.choice(len(words), p=shares))]
            if drawn.lower() != word.lower():
                if word.isupper() and len(word) > 1:
                    return drawn.upper()
                return drawn[0].upper() + drawn[1:] if word[0].isupper() else drawn
        return word


class PromptedRewriter:
    """Asks an instruction-tuned model, with a prompt in the sense of H.1, at temperature 1."""

    def __init__(self, model: LiveModel, seed: int = 0) -> None:
        self.model, self._seed = model, seed

    def __call__(self, sentence: str, k: int = REWRITES) -> list[str]:
        chat = [{"role": "user", "content": PROMPT.format(sentence=sentence)}]
        text = self.model.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True
        )
        ids = self.model.tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
        ids = ids.expand(k, -1).to(self.model.where.device)
        torch.manual_seed(self._seed)
        made = self.model.hf.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=2 * len(WORD.findall(sentence)) + 20,
            do_sample=True,
            temperature=1.0,
            pad_token_id=self.model.tokenizer.eos_token_id,
        )
        answers = self.model.tokenizer.batch_decode(
            made[:, ids.shape[1] :], skip_special_tokens=True
        )
        return [a.strip().split("\n")[0] for a in answers]


Active = Callable[[Sequence[str]], NDArray[np.bool_]]
"""Texts to [texts, features]: whether a feature is active at any token."""


def active_features(
    model: LiveModel,
    sae: "SAE[Any]",
    layer: int,
) -> Active:
    """Over the usable tokens of each text, in the residual stream before `layer`."""

    def active(texts: Sequence[str]) -> NDArray[np.bool_]:
        encoded = model.encode(texts)
        kept = [np.flatnonzero(e.usable) for e in encoded]
        h = record(model, encoded, kept, [layer])[layer].float()
        with torch.inference_mode():
            on = (sae.encode(h) > 0).numpy()
        ends = np.cumsum([len(p) for p in kept])
        return np.stack([part.any(0) for part in np.split(on, ends[:-1])])

    return active


def consistency(
    active: Active,
    sentences: Sequence[str],
    rewrite: Rewriter,
    k: int = REWRITES,
    desc: str = "rewriting",
) -> pd.DataFrame:
    """One row a feature: `feature`; `sentences` in which it is active as they are; `consistent` of
    these in which it is active in all k rewrites too; `consistency`, the share, NaN where it is
    never active."""
    seen = stays = None
    with Progress(desc, len(sentences), "sentences") as bar:
        for sentence in sentences:
            on = active([sentence, *rewrite(sentence, k)])
            if seen is None or stays is None:
                seen, stays = np.zeros(on.shape[1], dtype=int), np.zeros(on.shape[1], dtype=int)
            seen += on[0]
            stays += on.all(0)
            bar.advance(1)
    if seen is None or stays is None:
        return pd.DataFrame(columns=["feature", "sentences", "consistent", "consistency"])
    share = np.divide(stays, seen, out=np.full(len(seen), np.nan), where=seen > 0)
    return pd.DataFrame(
        {
            "feature": np.arange(len(seen)),
            "sentences": seen,
            "consistent": stays,
            "consistency": share,
        }
    )


FRAMES = (
    "The {n} of the {n} was {a} , and the {n} did not {v} it .",
    "When a {n} {d} a {n} , they {d} the {a} {n} as well .",
    "She {d} that every {n} in this {n} had been {a} before .",
    "If you {v} the {n} with a {n} , it will {v} the {n} .",
    "There is no {n} that could {v} an {a} {n} for them .",
)
"""Sentences whose function words are known: everything outside of braces."""
FILLERS = {
    "n": [
        "river",
        "teacher",
        "engine",
        "window",
        "garden",
        "soldier",
        "letter",
        "bridge",
        "market",
        "forest",
        "doctor",
        "mountain",
    ],
    "v": ["carry", "break", "follow", "paint", "destroy", "measure", "repair", "visit"],
    "d": [
        "carried",
        "followed",
        "painted",
        "destroyed",
        "measured",
        "repaired",
        "visited",
        "opened",
    ],
    "a": ["ancient", "wooden", "quiet", "narrow", "bright", "heavy", "strange", "modern"],
}


def validate_rewriter(
    rewrite: Rewriter,
    k: int = REWRITES,
    each: int = 12,
    seed: int = 0,
) -> dict[str, float]:
    """Precision and recall of 'structural' where the answer is known: one word detector a feature,
    on sentences made from FRAMES; those of function words are structural, those of fillers are not.
    `n` words judged."""
    rng = np.random.default_rng(seed)
    texts = []
    for frame in FRAMES:
        for _ in range(each):
            texts.append(re.sub(r"\{(\w)\}", lambda m: str(rng.choice(FILLERS[m[1]])), frame))
    structural = {w.lower() for frame in FRAMES for w in frame.split() if w.isalpha()}
    vocabulary = sorted(structural | {w for words in FILLERS.values() for w in words})

    def active(versions: Sequence[str]) -> NDArray[np.bool_]:
        found = [{w.lower() for w in WORD.findall(v)} for v in versions]
        return np.array([[w in words for w in vocabulary] for words in found])

    table = consistency(active, texts, rewrite, k, "validating the rewriter")
    table = table.query("sentences > 0")
    truth = np.array([vocabulary[i] in structural for i in table.feature])
    said = (table.consistency >= 0.5).to_numpy()
    right = float((truth & said).sum())
    return {
        "precision": right / max(said.sum(), 1),
        "recall": right / max(truth.sum(), 1),
        "n": float(len(table)),
    }
