"""Steering: difference-of-means vectors, the operators that apply them, and lanes that generate side by side (4, F).

A vector is learned from two sets of texts (DiffMean); z̄ is the mean component over the positive ones, always measured
in the model that is steered. Lanes of one model share every forward pass; each has its own vector and random numbers.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from core import hooks
from core.errors import StitchLensError
from core.harvest import OUTLIER, kept_positions, record
from core.models import LiveModel
from core.pairs import Frozen
from core.stitch import Stitch
from core.transfer import Direction, transfer_vector

SLOTS = 3
"""Rows of every forward pass, empty ones too: a lane's numbers do not depend on how many others run."""


STRONGEST = 20.0
LIKELY = 1024
"""Tokens among which a draw looks first for `top_p` of the probability."""


@dataclass(frozen=True)
class Means:
    """Mean residual streams of one model before `layer`, over the usable tokens of positive and negative texts."""

    layer: int
    positive: Float[Tensor, " d"]
    negative: Float[Tensor, " d"]
    tokens: tuple[int, int]
    makers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Vector:
    """A direction `v` [d] of unit norm before `layer`, and `mean`, z̄ of Eq. 8: ⟨h, v⟩ over positive tokens, on average,
    in the model that it steers (residual units)."""

    layer: int
    v: Float[Tensor, " d"]
    mean: float
    makers: Mapping[str, Any] = field(default_factory=dict)


def mean_residual(model: LiveModel, texts: Sequence[str], layer: int) -> tuple[Float[Tensor, " d"], int]:
    """(mean over usable tokens, how many), outlier norms left out. Raises StitchLensError where there is no token."""
    total, n, limit = torch.zeros(model.spec.d_model, dtype=torch.float64), 0, None
    for i in range(0, len(texts), 64):
        encoded, kept = kept_positions(model, texts[i : i + 64], None)
        if not sum(map(len, kept)):
            continue
        h = record(model, encoded, kept, [layer])[layer].double()
        norm = h.norm(dim=-1)
        limit = limit or OUTLIER * float(norm.median())
        h = h[norm <= limit]
        total, n = total + h.sum(0), n + len(h)
    if n == 0:
        raise StitchLensError("texts without a token", "some words", "give more text")
    return (total / n).float(), n


def means(
    model: LiveModel,
    positive: Sequence[str],
    negative: Sequence[str],
    layer: int,
    makers: Mapping[str, Any] | None = None,
) -> Means:
    """Both means of one model. Raises StitchLensError where a side has no token or the layer is out of range."""
    if not 0 <= layer < model.spec.n_layers:
        raise StitchLensError(f"layer {layer} of {model.spec.title}", f"0 to {model.spec.n_layers - 1}", "choose one")
    (plus, n), (minus, m) = (mean_residual(model, texts, layer) for texts in (positive, negative))
    return Means(layer, plus, minus, (n, m), dict(makers or {}) | model.makers)


def diff_mean(found: Means) -> Vector:
    """v = (μ₊ - μ₋) / ‖μ₊ - μ₋‖ and z̄ = ⟨μ₊, v⟩. Raises StitchLensError where the means are the same."""
    return _unit(found.positive - found.negative, found, dict(found.makers))


def moved(vector: Vector, stitch: Stitch, direction: Direction, found: Means) -> Vector:
    """A vector of the other model in this one: `v P` without the bias, renormalised; z̄ from `found`, this model's own
    means at the stitched layer."""
    v = transfer_vector(vector.v, stitch, direction)
    return _unit(v, found, {"from": dict(vector.makers), "stitch": dict(stitch.makers), "direction": direction})


def random_like(vector: Vector, found: Means, seed: int = 0) -> Vector:
    """A control: a random direction, with z̄ as far from the negative mean's component as that of `vector` is, so that a
    clamp changes as much."""
    v = torch.randn(vector.v.shape, generator=torch.Generator().manual_seed(seed))
    v = v / v.norm()
    push = vector.mean - float(found.negative @ vector.v)
    return Vector(vector.layer, v, float(found.negative @ v) + push, {"control": "random", "seed": seed})


def _unit(v: Tensor, found: Means, makers: dict[str, Any]) -> Vector:
    norm = float(v.norm())
    if not np.isfinite(norm) or norm < 1e-6:
        raise StitchLensError(
            "a direction of no length", "two sets of texts that differ", "the texts are the same, or too short"
        )
    v = v / norm
    return Vector(found.layer, v, float(found.positive @ v), makers | {"tokens": found.tokens, "norm": norm})


Operator = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(h [rows, pos, d], v [rows, 1, d], z̄ [rows, 1, 1], strength [rows, 1, 1]) to the steered h; float32."""


def clamp(h: Tensor, v: Tensor, mean: Tensor, strength: Tensor) -> Tensor:
    """Eq. 8 and 9, with c times `strength`: at 1 the component along v is z̄ at every position."""
    return h + strength * (mean - (h * v).sum(-1, keepdim=True)) * v


def add(h: Tensor, v: Tensor, mean: Tensor, strength: Tensor) -> Tensor:
    """`strength` times z̄ v on top of what is there."""
    return h + strength * mean * v


OPERATORS: dict[str, Operator] = {"clamp": clamp, "add": add}


@dataclass(frozen=True)
class Lane:
    """How one lane is steered; without a vector it is the model as it is. Raises StitchLensError for a strength that is
    not in [-STRONGEST, STRONGEST]."""

    vector: Vector | None = None
    operator: Literal["clamp", "add"] = "clamp"
    strength: float = 1.0
    prompt: bool = True
    """Also steer the prompt's tokens (special ones never); else what is generated alone."""

    def __post_init__(self) -> None:
        if not abs(self.strength) <= STRONGEST:
            raise StitchLensError(f"strength {self.strength:g}", f"{-STRONGEST:g} to {STRONGEST:g}", "1 is Eq. 8")


class Sampling(Frozen):
    """How tokens are drawn. Temperature 0 takes the likeliest."""

    tokens: int = Field(default=60, ge=1, le=1000)
    temperature: float = Field(default=0.8, ge=0, le=5, allow_inf_nan=False)
    top_p: float = Field(default=0.95, gt=0, le=1)
    repetition: float = Field(default=1.15, ge=0.5, le=3, allow_inf_nan=False)
    """Logits of tokens that were used are divided by this where positive, multiplied where negative."""
    seed: int = Field(default=0, ge=0, le=2**31)


@dataclass
class Written:
    """What a lane has written so far; `done` once it stopped by itself or reached the end."""

    ids: list[int]
    text: str = ""
    done: bool = False


class Turns:
    """First come, first served: one stream at a time uses a model."""

    def __init__(self) -> None:
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, waiting: Callable[[int], None] = lambda place: None) -> Iterator[None]:
        """Holds the model; meanwhile `waiting` hears how many are ahead whenever that changes."""
        me = object()
        with self._changed:
            self._waiting.append(me)
        try:
            while True:
                with self._changed:
                    place = self._waiting.index(me)
                    if place == 0:
                        break
                waiting(place)
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting.index(me) < place, timeout=1.0)  # noqa: B023
            yield
        finally:
            with self._changed:
                self._waiting.remove(me)
                self._changed.notify_all()


def encode_prompt(model: LiveModel, prompt: str, tokens: int) -> Int[Tensor, " n"]:
    """Token ids, the first special one included. Raises StitchLensError where the prompt is empty or leaves no room for
    `tokens` more."""
    (encoded,) = model.encode([prompt], max_tokens=10**6)
    if not encoded.usable.any():
        raise StitchLensError("an empty prompt", "a few words", "type what the models shall go on from")
    room = int(getattr(model.hf.config.get_text_config(), "max_position_embeddings", 2048)) - tokens
    if len(encoded.ids) > room:
        raise StitchLensError(
            f"a prompt of {len(encoded.ids):,} tokens", f"at most {room:,}", "shorten it, or ask for fewer tokens"
        )
    return torch.from_numpy(encoded.ids.astype(np.int64))


def generate(
    model: LiveModel, prompt: str, lanes: Sequence[Lane], sampling: Sampling | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[list[Written]]:  # fmt: skip
    """After every token, what each lane has written: all lanes in one pass a token (SLOTS of them; more go in groups).

    A lane draws from random numbers of its own, so the same seed writes the same text whichever other lanes run. `stop`
    is asked before every token. Raises StitchLensError for a prompt or a vector that does not fit the model.
    """
    sampling = sampling or Sampling()
    ids = encode_prompt(model, prompt, sampling.tokens)
    for lane in lanes:
        if lane.vector is not None and lane.vector.v.shape != (model.spec.d_model,):
            raise StitchLensError(
                f"a vector of width {len(lane.vector.v)}", f"{model.spec.d_model}, that of {model.spec.title}",
                "use one of this model, or carry it over through a stitch",
            )  # fmt: skip
    groups = [_Group(model, ids, lanes[i : i + SLOTS], sampling) for i in range(0, len(lanes), SLOTS)]
    for _ in range(sampling.tokens):
        if stop() or all(lane.done for group in groups for lane in group.written):
            break
        for group in groups:
            group.step()
        yield [lane for group in groups for lane in group.written]


class _Group:
    """Up to SLOTS lanes with one cache."""

    def __init__(self, model: LiveModel, ids: Tensor, lanes: Sequence[Lane], sampling: Sampling) -> None:
        self.model, self.sampling, self.lanes = model, sampling, lanes
        self.written = [Written([]) for _ in lanes]
        self.next = ids.expand(SLOTS, -1).to(model.where.device)
        self.seen = [ids.clone() for _ in lanes]
        self.cache: Any = None
        self.random = [torch.Generator().manual_seed(sampling.seed) for _ in lanes]
        self.prompt = ~torch.isin(ids, torch.from_numpy(model.special))
        self.ends = _stop_tokens(model)

    def step(self) -> None:
        if all(lane.done for lane in self.written):
            return
        with torch.inference_mode(), hooks.changed(self.model, self._changes()):
            out = self.model.body(input_ids=self.next, past_key_values=self.cache, use_cache=True)
            self.cache = out.past_key_values
            logits = self.model.logits(out.last_hidden_state[:, -1]).float().cpu()
        drawn = [self._draw(k, logits[k]) for k in range(len(self.lanes))]
        drawn += [drawn[0]] * (SLOTS - len(drawn))
        self.next = torch.tensor(drawn)[:, None].to(self.model.where.device)

    def _changes(self) -> dict[int, hooks.Change]:
        first = self.cache is None
        layers: dict[int, list[int]] = {}
        for k, lane in enumerate(self.lanes):
            if lane.vector is not None and (lane.prompt or not first):
                layers.setdefault(lane.vector.layer, []).append(k)
        where = self.prompt if first else torch.ones(1, dtype=torch.bool)
        return {layer: self._change(rows, where) for layer, rows in layers.items()}

    def _change(self, rows: list[int], where: Tensor) -> hooks.Change:
        def change(h: Tensor) -> Tensor:
            out = h.float().clone()
            for k in rows:
                lane = self.lanes[k]
                assert lane.vector is not None
                v = lane.vector.v.to(out)[None, None]
                mean, strength = (out.new_tensor(x).view(1, 1, 1) for x in (lane.vector.mean, lane.strength))
                at = where.to(out.device)
                out[k : k + 1, at] = OPERATORS[lane.operator](out[k : k + 1, at], v, mean, strength)
            return out

        return change

    def _draw(self, k: int, logits: Tensor) -> int:
        written = self.written[k]
        if written.done:
            return 0
        token = draw(logits, self.seen[k], self.sampling, self.random[k])
        if token in self.ends:
            written.done = True
            return 0
        self.seen[k] = torch.cat([self.seen[k], torch.tensor([token])])
        written.ids.append(token)
        text = self.model.tokenizer.decode(written.ids, skip_special_tokens=True)
        written.text = text.removesuffix("\ufffd") if len(written.ids) < self.sampling.tokens else text
        written.done = len(written.ids) == self.sampling.tokens
        return token


def _stop_tokens(model: LiveModel) -> set[int]:
    """Ids at which a text ends: those of the model's generation config and of its tokenizer."""
    said = getattr(model.hf.generation_config, "eos_token_id", None)
    ends = said if isinstance(said, list) else [said]
    return {int(i) for i in [*ends, model.tokenizer.eos_token_id] if i is not None}


def draw(
    logits: Float[Tensor, " vocabulary"], seen: Int[Tensor, " n"], sampling: Sampling, random: torch.Generator
) -> int:
    """One token id: repetition penalty, temperature, then the smallest set that holds `top_p` of the probability."""
    used = seen.unique()
    logits = logits.clone()
    logits[used] = torch.where(logits[used] > 0, logits[used] / sampling.repetition, logits[used] * sampling.repetition)
    number = float(torch.rand((), generator=random, dtype=torch.float64))  # one each token, whatever the temperature
    if sampling.temperature == 0:
        return int(logits.argmax())
    shares = torch.softmax(logits / sampling.temperature, dim=-1)
    p, ids = shares.topk(min(LIKELY, len(shares)))
    if float(p.sum()) < sampling.top_p:
        p, ids = shares.sort(descending=True)
    total = p.double().cumsum(0)
    kept = min(int((total < sampling.top_p).sum()) + 1, len(p))
    return int(ids[int((total[:kept] <= number * total[kept - 1]).sum().clamp(max=kept - 1))])
