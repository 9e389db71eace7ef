"""One text as a stitched model reads it: at each position what both models and the crossing
expect next, and what the crossing costs there."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from core.errors import StitchLensError
from core.models import hooks
from core.models.live import Encoded
from core.models.pairs import Side
from core.stitches.stitched import Stitched, tensor_of
from core.text.reading import characters

ROWS = 64
"""Rows of logits held at a time, of each condition."""
TOP = 10
SIDES: tuple[Side, Side] = ("a", "b")

Top = list[tuple[str, float]]
"""Tokens and their probabilities, the likeliest first."""


@dataclass(frozen=True)
class Expected:
    """What one condition expects at each of its model's positions.

    loss [n - 1] nats of each next token; kl [n] nats, of the unpatched model's next token against
    this condition's; ids and shares [n, top] the likeliest next tokens.
    """

    loss: Float[np.ndarray, " m"]
    kl: Float[np.ndarray, " n"]
    ids: Int[np.ndarray, "n top"]
    shares: Float[np.ndarray, "n top"]


@dataclass(frozen=True)
class Token:
    """One position of the model that speaks: the text it has just read, and the next token as each
    expects it. Losses in nats of the next token of the model that is scored: None at the last
    position, and of the other model where it has not read the same text."""

    text: str
    special: bool
    """Whether it is no text: the token that goes before every text."""
    paired: bool
    loss_a: float | None
    loss_b: float | None
    loss_crossed: float | None
    loss_control: float | None
    kl: float
    top_a: Top
    top_b: Top
    top_crossed: Top
    top_control: Top


@dataclass(frozen=True)
class Passage:
    """A text, read."""

    text: str
    read: int
    """Characters that the speaker has read: a longer text is cut."""
    direction: str
    tokens: list[Token]
    totals: dict[str, dict[str, float]]
    """By the names of Table 1: loss (nats/token), relative to the speaker unpatched, bits_per_byte,
    tokens; of what crosses also kl and the same over paired positions alone (loss_patched,
    relative_patched, share_patched). NaN where there is nothing to take a mean of."""

    def record(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "text": self.text,
            "read": self.read,
            "direction": self.direction,
            "tokens": [vars(token) for token in self.tokens],
            "totals": {
                name: {key: None if value != value else value for key, value in total.items()}
                for name, total in self.totals.items()
            },
        }


@dataclass(frozen=True)
class Positions:
    """One text as both models read it up to the stitched layers."""

    text: str
    encoded: Mapping[Side, Encoded]
    at: Mapping[Side, NDArray[np.intp]]
    """The positions that have read the same text, as many on either side, both rising."""
    ids: Mapping[Side, Int[Tensor, " n"]]
    own: Mapping[Side, Float[Tensor, "n d"]]
    """The residual stream before the stitched layer."""


def positions(stitched: Stitched, text: str) -> Positions:
    """Lines end as they do in the text, so a document of the corpus is read as `stitch eval` does.
    Raises StitchLensError for an empty text."""
    text = characters(text)
    if not text.strip():
        raise StitchLensError("an empty text", "a sentence or more", "type or paste one")
    encoded = dict[Side, Encoded]()
    ids = dict[Side, Tensor]()
    own = dict[Side, Tensor]()
    for side in SIDES:
        model = stitched.model(side)
        layer = stitched.layer(side)
        (encoded[side],) = model.encode([text])
        ids[side] = tensor_of(encoded[side].ids).to(model.where.device)
        streams = hooks.residuals(model, ids[side][None], [layer])
        own[side] = streams[layer][0]

    pairs = stitched.pairs(encoded["a"], encoded["b"])
    at = dict(zip(SIDES, pairs, strict=True))
    return Positions(text, encoded, at, ids, own)


def read(
    stitched: Stitched,
    text: str,
    controls: Mapping[str, Stitched] | None = None,
    top: int = TOP,
) -> Passage:
    """The text as both models and the stitched one read it, and as each of the `controls` does; the
    first of these is shown at each position.

    Every residual stream and loss is computed as for Table 1 (`core.stitches.downstream`). Raises
    StitchLensError for an empty text.
    """
    at = positions(stitched, text)
    speaker, other = stitched.speaker, stitched.other
    controls = controls or {}
    streams = {
        speaker: at.own[speaker],
        "crossed": crossed(stitched, at),
    }
    for name, control in controls.items():
        streams[name] = crossed(control, at)

    of = _expected(stitched, speaker, at, streams, top)
    of |= _expected(stitched, other, at, {other: at.own[other]}, top)
    ends = at.encoded[speaker].ends
    return Passage(
        text=at.text,
        read=int(ends.max(initial=0)),
        direction=stitched.direction,
        tokens=_tokens(stitched, at, of, next(iter(controls), None)),
        totals=_totals(stitched, at, of),
    )


def crossed(stitched: Stitched, at: Positions) -> Float[Tensor, "n d"]:
    """The speaker's stream with what crosses in place, in the speaker's own precision."""
    own = at.own[stitched.speaker]
    source = at.own[stitched.source]

    there = torch.from_numpy(at.at[stitched.source])
    places = torch.from_numpy(at.at[stitched.speaker])
    if not stitched.first:
        behind = there > 0
        there, places = there[behind], places[behind]
    rows = stitched.cross(source[there].float(), (there == 0).to(source.device))
    return own.index_copy(
        0,
        places.to(own.device),
        rows.to(own),
    )


class Names:
    """Token ids as text."""

    def __init__(self, stitched: Stitched) -> None:
        self._stitched = stitched
        self._known: dict[tuple[str, int], str] = {}

    def of(
        self,
        side: Side,
        token: int,
    ) -> str:
        if (side, token) not in self._known:
            self._known[side, token] = self._stitched.model(side).tokenizer.decode([token])
        return self._known[side, token]

    def top(
        self,
        side: Side,
        ids: NDArray[Any],
        shares: NDArray[Any],
    ) -> Top:
        return [
            (self.of(side, int(token)), float(share))
            for token, share in zip(ids, shares, strict=True)
        ]


def _expected(
    stitched: Stitched,
    side: Side,
    at: Positions,
    streams: Mapping[str, Float[Tensor, "n d"]],
    top: int,
) -> dict[str, Expected]:
    """What one model expects after each of the streams before its stitched layer; KL is taken
    against the first, its own."""
    model = stitched.model(side)
    ids = at.ids[side]
    batch = torch.stack(list(streams.values()))
    hidden = hooks.final_hidden(
        model,
        ids.expand(len(batch), -1),
        stitched.layer(side),
        batch,
    )

    parts = {name: list[tuple[Tensor, ...]]() for name in streams}
    with torch.inference_mode():
        for begin in range(0, len(ids), ROWS):
            own: _Own | None = None
            some = hidden[:, begin : begin + ROWS]
            targets = ids[begin + 1 : begin + ROWS + 1]
            for name, rows in zip(streams, some, strict=True):
                logs = torch.log_softmax(model.logits(rows), -1)
                own = own or _Own(logs, logs.exp())
                parts[name].append(_at_rows(logs, own, targets, top))

    out = {}
    for name, of_name in parts.items():
        whole = (torch.cat(part) for part in zip(*of_name, strict=True))
        out[name] = Expected(*(part.cpu().numpy() for part in whole))
    return out


class _Own(NamedTuple):
    """What the unpatched model expects at a few positions: computed once for all that is compared
    with it."""

    logs: Float[Tensor, "n vocab"]
    shares: Float[Tensor, "n vocab"]


def _at_rows(
    logs: Float[Tensor, "n vocab"],
    own: _Own,
    targets: Int[Tensor, " m"],
    top: int,
) -> tuple[Tensor, ...]:
    """The parts of `Expected` at a few positions, from log probabilities; the last position of a
    text has no target."""
    loss = -logs[: len(targets)].gather(1, targets[:, None])
    divergence = torch.zeros(len(logs), device=logs.device)
    if logs is not own.logs:
        divergence = torch.linalg.vecdot(own.shares, own.logs - logs)
    shares, tokens = logs.topk(min(top, logs.shape[-1]))
    return (
        loss[:, 0],
        divergence,
        tokens,
        shares.exp(),
    )


def _tokens(
    stitched: Stitched,
    at: Positions,
    of: Mapping[str, Expected],
    control: str | None,
) -> list[Token]:
    """One of each position of the speaker."""
    speaker = stitched.speaker
    other = stitched.other
    names = Names(stitched)
    special = stitched.model(speaker).special

    pairs = zip(at.at[speaker].tolist(), at.at[other].tolist(), strict=True)
    same = dict(pairs)

    def loss(name: str | None, position: int | None) -> float | None:
        if name is None or position is None or position >= len(of[name].loss):
            return None
        return float(of[name].loss[position])

    def top(
        name: str | None,
        side: Side,
        position: int | None,
    ) -> Top:
        if name is None or position is None:
            return []
        expected = of[name]
        return names.top(
            side,
            expected.ids[position],
            expected.shares[position],
        )

    out, read = [], 0
    encoded = at.encoded[speaker]
    for j, end in enumerate(encoded.ends.tolist()):
        position = {speaker: j, other: same.get(j)}
        token = Token(
            text=at.text[read:end] if end > read else "",
            special=bool(np.isin(encoded.ids[j], special)),
            paired=j in same,
            loss_a=loss("a", position["a"]),
            loss_b=loss("b", position["b"]),
            loss_crossed=loss("crossed", j),
            loss_control=loss(control, j),
            kl=float(of["crossed"].kl[j]),
            top_a=top("a", "a", position["a"]),
            top_b=top("b", "b", position["b"]),
            top_crossed=top("crossed", speaker, j),
            top_control=top(control, speaker, j),
        )
        out.append(token)
        read = max(read, end)
    return out


def _totals(
    stitched: Stitched,
    at: Positions,
    of: Mapping[str, Expected],
) -> dict[str, dict[str, float]]:
    """Of both models, of what crosses, and of each control."""
    out = {}
    for side in SIDES:
        out[side] = _total(at, side, of[side])

    speaker, direction = stitched.speaker, stitched.direction
    for name, expected in of.items():
        if name not in SIDES:
            key = direction if name == "crossed" else f"{name}_{direction}"
            out[key] = _total(at, speaker, expected)
            out[key] |= _crossing(at, speaker, expected, of[speaker])
    return out


def _total(
    at: Positions,
    side: Side,
    expected: Expected,
) -> dict[str, float]:
    """Loss over the whole text."""
    loss = float(expected.loss.sum(dtype=np.float64))
    tokens = len(expected.loss)
    read = at.text[: at.encoded[side].ends.max(initial=0)]
    return {
        "loss": loss / max(tokens, 1),
        "bits_per_byte": loss / math.log(2) / max(len(read.encode()), 1),
        "tokens": float(tokens),
    }


def _crossing(
    at: Positions,
    speaker: Side,
    expected: Expected,
    own: Expected,
) -> dict[str, float]:
    """Against the speaker unpatched, over the whole text and over paired positions alone."""
    tokens = len(own.loss)
    patched = at.at[speaker]
    patched = patched[patched < tokens]
    loss = expected.loss.astype(np.float64)
    base = own.loss.astype(np.float64)

    out = {
        "relative": math.nan,
        "loss_patched": math.nan,
        "relative_patched": math.nan,
        "share_patched": len(patched) / max(tokens, 1),
        "kl": math.nan,
    }
    if tokens:
        out["relative"] = loss.sum() / base.sum() - 1
    if len(patched):
        out["loss_patched"] = loss[patched].mean()
        out["relative_patched"] = loss[patched].sum() / base[patched].sum() - 1
        out["kl"] = expected.kl[patched].mean()
    return {key: float(value) for key, value in out.items()}
