"""Two positions pair up exactly where both models have read the same text: by hand, and by the
tokens' bytes."""

from copy import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from core.models.align import encode_both, pair_positions
from core.models.live import Encoded, LiveModel
from tests.helpers.small import SCRIPTS, Tiny

Pairs = list[tuple[int, int]]


def pairs(a: Encoded, b: Encoded, same: bool = False) -> Pairs:
    i, j = pair_positions(a, b, same)
    return list(zip(i.tolist(), j.tolist(), strict=True))


def encoded(ends: list[int]) -> Encoded:
    return Encoded(np.arange(len(ends), dtype=np.int32), np.array(ends, dtype=np.int32))


def as_bytes(text: str) -> Encoded:
    """A first token, then a token a byte: all bytes of a character end where it ends."""
    return encoded([-1] + [k for k, c in enumerate(text, 1) for _ in c.encode()])


def as_pieces(pieces: list[str]) -> Encoded:
    return encoded([-1, *np.cumsum([len(p) for p in pieces]).tolist()])


BY_HAND: dict[str, tuple[list[str], Pairs]] = {
    # pieces of B -> (position in A's bytes, position in B); position 0 is the first token of each
    "Latin": (["caf", "é", " au", " lait"], [(3, 1), (5, 2), (8, 3), (13, 4)]),
    "Cyrillic": (["При", "ве", "т"], [(6, 1), (10, 2), (12, 3)]),
    "Devanagari": (["नम", "स्ते"], [(6, 1), (18, 2)]),
    "Han": (["你", "好，", "世界"], [(3, 1), (9, 2), (15, 3)]),
    "Arabic": (["مر", "حبا", " ب"], [(4, 1), (10, 2), (13, 3)]),
    "emoji": (["👍🏽", "😀", "!"], [(8, 1), (12, 2), (13, 3)]),
}


@pytest.mark.parametrize("script", BY_HAND)
def test_by_hand(script: str) -> None:
    pieces, expected = BY_HAND[script]
    a, b = as_bytes("".join(pieces)), as_pieces(pieces)
    assert pairs(a, b) == expected
    assert pairs(b, a) == [(j, i) for i, j in expected]


def test_tokens_that_cross_pair_only_where_both_end() -> None:
    assert pairs(as_pieces(["ab", "cd", "ef"]), as_pieces(["abc", "def"])) == [(3, 2)]
    assert pairs(as_pieces(["ab", "cd"]), as_pieces(["abc", "de"])) == []


def test_special_tokens_and_cut_tails_do_not_pair() -> None:
    a, b = encoded([-1, 2, -1, 4, 6, -1, -1]), encoded([-1, 2, 4, -1, 6])
    assert pairs(a, b) == [(1, 1), (3, 2), (4, 4)]


def test_equal_tokenizers_pair_all_but_special_tokens() -> None:
    text = SCRIPTS["emoji"]
    a = as_bytes(text)
    both = pairs(a, a, same=True)
    assert both == [(k, k) for k in range(1, len(a.ids))]
    assert len(pairs(a, a)) == len(text) < len(both), (
        "without that knowledge only whole characters pair"
    )


def test_equal_tokenizers_with_different_tokens_fall_back_to_ends() -> None:
    a = as_pieces(["ab", "c"])
    b = Encoded(a.ids + 7, a.ends)
    assert pairs(a, b, same=True) == [(1, 1), (2, 2)]


def token_bytes(model: LiveModel, e: Encoded) -> list[bytes]:
    """What each token spells, from its own characters: independent of the tokenizer's offsets.
    Special tokens: b''."""
    table = dict(zip(sorted(ByteLevel.alphabet()), sorted(ByteLevel.alphabet()), strict=True))
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    to_byte = {chr(b): b for b in printable} | {chr(256 + k): b for k, b in enumerate(rest)}
    assert set(to_byte) == set(table), "the byte-level alphabet of GPT-2"
    out = []
    for token in model.tokenizer.convert_ids_to_tokens(e.ids.tolist()):
        if token in model.tokenizer.all_special_tokens:
            out.append(b"")
        elif model.spec.key.startswith("nano"):
            out.append(bytes(to_byte[c] for c in token))
        elif token.startswith("<0x"):
            out.append(bytes([int(token[3:5], 16)]))
        else:
            out.append(token.replace("▁", " ").encode())
    return out


def truth(a: LiveModel, b: LiveModel, text: str) -> Pairs:
    """Pairs of positions that have read the same bytes, a whole number of characters."""
    whole = set(np.cumsum([len(c.encode()) for c in text]).tolist())
    read: list[dict[int, int]] = []
    for model in (a, b):
        (e,) = model.encode([text])
        spelt = token_bytes(model, e)
        assert b"".join(spelt) == text.encode()
        totals = np.cumsum([len(s) for s in spelt]).tolist()
        read.append(
            {n: k for k, (n, s) in enumerate(zip(totals, spelt, strict=True)) if s and n in whole}
        )
    return [(read[0][n], read[1][n]) for n in sorted(read[0].keys() & read[1].keys())]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("kinds", [("nano-a", "llama"), ("llama", "nano-b"), ("gemma", "nano-a")])
def test_real_tokenizers_pair_where_their_bytes_agree(
    tiny: Tiny, script: str, kinds: tuple[str, str]
) -> None:
    a, b = (tiny(kind) for kind in kinds)
    text = SCRIPTS[script]
    (x,), (y,) = a.encode([text]), b.encode([text])
    found = pairs(x, y)
    assert found == truth(a, b, text)
    assert found[-1] == (
        len(x.ids) - 1,
        len(y.ids) - 1,
    ), "the whole text has been read by both at its end"


LETTERS = st.sampled_from([*"abc xyz.é", *"приветнमस्ते你好世界", "ا", "😀", "👍"])
TEXTS = st.one_of(
    st.text(LETTERS, max_size=40), st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
)
QUICK = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUICK
@given(text=TEXTS)
def test_any_text_pairs_where_bytes_agree(tiny: Tiny, text: str) -> None:
    a, b = tiny("nano-a"), tiny("llama")
    if any(s in text for s in ("<bos>", "<unk>", "<|endoftext|>", "<0x", "▁")):
        return
    (x,), (y,) = a.encode([text]), b.encode([text])
    found = pairs(x, y)
    assert found == truth(a, b, text)
    assert all(i < k and j < m for (i, j), (k, m) in pairwise(found)), "both rise"


@QUICK
@given(text=TEXTS.filter(bool), limit=st.integers(3, 12))
def test_a_cut_text_pairs_as_the_whole_one_did(tiny: Tiny, text: str, limit: int) -> None:
    """Truncation, in the middle of a character too, may lose pairs but makes none up."""
    a, b = tiny("nano-a"), tiny("llama")
    (whole,), (y,) = a.encode([text]), b.encode([text])
    (cut,) = a.encode([text], max_tokens=limit)
    assert len(cut.ids) == min(limit, len(whole.ids))
    assert set(pairs(cut, y)) <= set(pairs(whole, y))


def test_a_text_cut_inside_a_character_drops_its_bytes(tiny: Tiny) -> None:
    model: Any = tiny("llama")
    (whole,) = model.encode(["ab你"])
    assert [len(s) for s in token_bytes(model, whole)][-3:] == [1, 1, 1], "你 is spelt in bytes"
    n = len(whole.ids)
    for cut in (1, 2):
        (part,) = model.encode(["ab你"], max_tokens=n - cut)
        assert part.ends.max() == 2, "the last whole character"
        assert (part.ends[-(3 - cut) :] == -1).all()
    assert pairs(whole, as_bytes("ab你"))[-1] == (n - 1, 5)


def test_two_models_read_texts_as_each_does_alone(tiny: Tiny) -> None:
    texts = ["One text, and then", *SCRIPTS.values(), ""]
    a = tiny("nano-a")
    for name, once in (("nano-b", True), ("llama", False)):
        b = tiny(name)
        both = encode_both(a, b, texts)
        assert (both.b is both.a) == once == a.reads_like(b) == b.reads_like(a)

        alone = zip(a.encode(texts), b.encode(texts), strict=True)
        for x, y, found, (one, other) in zip(both.a, both.b, both.paired, alone, strict=True):
            for read, own in ((x, one), (y, other)):
                assert np.array_equal(read.ids, own.ids)
                assert np.array_equal(read.ends, own.ends)
            for at, expected in zip(found, pair_positions(one, other, once), strict=True):
                assert np.array_equal(at, expected)


def test_models_that_cut_texts_elsewhere_do_not_read_alike(tiny: Tiny) -> None:
    one, other = copy(tiny("nano-a")), copy(tiny("nano-b"))
    other.context = 8
    assert not one.reads_like(other)

    text = "A text of more than eight tokens, cut by one of two models alone."
    both = encode_both(one, other, [text])
    assert len(both.a[0].ids) > len(both.b[0].ids) == 8
