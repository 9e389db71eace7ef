"""One text as a stitched model reads it: at each position what both models and the crossing
expect next, and what the crossing costs there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from core.errors import StitchLensError
from core.models import hooks
from core.models.align import pair_positions
from core.models.live import Encoded
from core.models.pairs import Side
from core.stitches.stitched import Stitched, tensor_of
from core.text.reading import characters

ROWS = 64
"""Rows of logits held at a time, of each condition."""
TOP = 10

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
    sides: tuple[Side, Side] = ("a", "b")
    encoded: dict[Side, Encoded] = {side: stitched.model(side).encode([text])[0] for side in sides}
    pairs = pair_positions(encoded["a"], encoded["b"], stitched.same_tokens)

    ids, own = {}, {}
    for side in sides:
        model, layer = stitched.model(side), stitched.layer(side)
        ids[side] = tensor_of(encoded[side].ids).to(model.where.device)
        own[side] = hooks.residuals(model, ids[side][None], [layer])[layer][0]
    return Positions(text, encoded, dict(zip(sides, pairs, strict=True)), ids, own)


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
    streams = {speaker: at.own[speaker]}
    for name, crossing in {"crossed": stitched, **(controls or {})}.items():
        streams[name] = crossed(crossing, at)
    of = _expected(stitched, speaker, at, streams, top)
    of |= _expected(stitched, other, at, {other: at.own[other]}, top)
    return Passage(
        at.text,
        int(at.encoded[speaker].ends.max(initial=0)),
        stitched.direction,
        _tokens(stitched, at, of, next(iter(controls or {}), None)),
        _totals(stitched, at, of),
    )


def crossed(stitched: Stitched, at: Positions) -> Float[Tensor, "n d"]:
    """The speaker's stream with what crosses in place, in the speaker's own precision."""
    own, source = at.own[stitched.speaker], at.own[stitched.source]
    places = torch.from_numpy(at.at[stitched.speaker]).to(own.device)
    rows = stitched.cross(source[torch.from_numpy(at.at[stitched.source])].float())
    return own.index_copy(0, places, rows.to(own))


class Names:
    """Token ids as text."""

    def __init__(self, stitched: Stitched) -> None:
        self._stitched = stitched
        self._known: dict[tuple[str, int], str] = {}

    def of(self, side: Side, token: int) -> str:
        if (side, token) not in self._known:
            self._known[side, token] = self._stitched.model(side).tokenizer.decode([token])
        return self._known[side, token]

    def top(self, side: Side, ids: NDArray[Any], shares: NDArray[Any]) -> Top:
        return [(self.of(side, int(i)), float(p)) for i, p in zip(ids, shares, strict=True)]


def _expected(
    stitched: Stitched,
    side: Side,
    at: Positions,
    streams: Mapping[str, Float[Tensor, "n d"]],
    top: int,
) -> dict[str, Expected]:
    """What one model expects after each of the streams before its stitched layer; KL is taken
    against the first, its own."""
    model, ids = stitched.model(side), at.ids[side]
    batch = torch.stack(list(streams.values()))
    hidden = hooks.final_hidden(model, ids.expand(len(batch), -1), stitched.layer(side), batch)
    parts = {name: list[tuple[Tensor, ...]]() for name in streams}
    with torch.inference_mode():
        for begin in range(0, len(ids), ROWS):
            own: Tensor | None = None
            targets = ids[begin + 1 : begin + ROWS + 1]
            for name, rows in zip(streams, hidden[:, begin : begin + ROWS], strict=True):
                logs = torch.log_softmax(model.logits(rows), -1)
                kl = torch.zeros(len(rows))
                if own is None:
                    own = logs
                else:
                    kl = (own.exp() * (own - logs)).sum(-1)
                loss = -logs[: len(targets)].gather(1, targets[:, None])[:, 0]
                shares, tokens = logs.topk(min(top, logs.shape[-1]))
                parts[name].append((loss, kl, tokens, shares.exp()))
    return {
        name: Expected(*(torch.cat(x).cpu().numpy() for x in zip(*of_name, strict=True)))
        for name, of_name in parts.items()
    }


def _tokens(
    stitched: Stitched,
    at: Positions,
    of: Mapping[str, Expected],
    control: str | None,
) -> list[Token]:
    """One of each position of the speaker."""
    speaker, other, names = stitched.speaker, stitched.other, Names(stitched)
    ends, special = at.encoded[speaker].ends, stitched.model(speaker).special
    same = dict(zip(at.at[speaker].tolist(), at.at[other].tolist(), strict=True))

    def loss(name: str | None, position: int | None) -> float | None:
        if name is None or position is None or position >= len(of[name].loss):
            return None
        return float(of[name].loss[position])

    def top(name: str | None, side: Side, position: int | None) -> Top:
        if name is None or position is None:
            return []
        return names.top(side, of[name].ids[position], of[name].shares[position])

    out, read = [], 0
    for j, end in enumerate(ends.tolist()):
        position = {speaker: j, other: same.get(j)}
        out.append(
            Token(
                at.text[read:end] if end > read else "",
                bool(np.isin(at.encoded[speaker].ids[j], special)),
                j in same,
                loss("a", position["a"]),
                loss("b", position["b"]),
                loss("crossed", j),
                loss(control, j),
                float(of["crossed"].kl[j]),
                top("a", "a", position["a"]),
                top("b", "b", position["b"]),
                top("crossed", speaker, j),
                top(control, speaker, j),
            )
        )
        read = max(read, end)
    return out


def _totals(
    stitched: Stitched, at: Positions, of: Mapping[str, Expected]
) -> dict[str, dict[str, float]]:
    speaker = stitched.speaker
    base = of[speaker].loss
    patched = at.at[speaker][at.at[speaker] < len(base)]
    out: dict[str, dict[str, float]] = {}
    for name, expected in of.items():
        side: Side = stitched.other if name == stitched.other else speaker
        loss, ends = expected.loss.astype(np.float64), at.encoded[side].ends
        tokens, read = len(loss), len(at.text[: ends.max(initial=0)].encode())
        row = {
            "loss": loss.sum() / max(tokens, 1),
            "bits_per_byte": loss.sum() / np.log(2) / max(read, 1),
            "tokens": tokens,
        }
        if name not in ("a", "b"):
            row |= {
                "relative": loss.sum() / base.sum() - 1 if tokens else np.nan,
                "loss_patched": loss[patched].sum() / max(len(patched), 1),
                "relative_patched": loss[patched].sum() / base[patched].sum() - 1
                if len(patched)
                else np.nan,
                "share_patched": len(patched) / max(tokens, 1),
                "kl": float(expected.kl[patched].mean()) if len(patched) else np.nan,
            }
        key = name if name in ("a", "b") else stitched.direction
        key = key if name in ("a", "b", "crossed") else f"{name}_{key}"
        out[key] = {k: float(v) for k, v in row.items()}
    return out
