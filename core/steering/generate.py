"""Steering: the operators that apply a vector (Eq. 8-9), and lanes that generate side by side.

Lanes of one model share every forward pass; each has its own vectors and random numbers.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from core.errors import StitchLensError
from core.models import hooks
from core.models.live import MAX_TOKENS, LiveModel, limits_of
from core.progress import Progress
from core.steering.crossed import Row
from core.steering.lanes import Lane, changes, together
from core.steering.settings import Sampling
from core.stitches.stitched import new_cache
from core.text.reading import clean

SLOTS = 3
"""Rows of every forward pass, empty ones too: a lane's numbers do not depend on how many others
run."""
ROWS = 128
"""Rows of a pass where texts are written in bulk: the least time a token on a processor."""
LIKELY = (64, 4096)
"""Tokens among which a draw looks for `top_p` of the probability, before it sorts them all."""


@dataclass
class Written:
    """What a lane has written so far; `done` once it stopped by itself or reached the end."""

    model: LiveModel
    ids: list[int] = field(default_factory=list)
    done: bool = False

    @property
    def text(self) -> str:
        """A character whose last bytes are still to come is left out."""
        text = self.model.tokenizer.decode(self.ids, skip_special_tokens=True)
        return text if self.done else text.removesuffix("\ufffd")


def encode_prompt(
    model: LiveModel,
    prompt: str,
    tokens: int,
) -> Int[Tensor, " n"]:
    """Token ids, the first special one included. Raises StitchLensError where the prompt is empty
    or leaves no room for `tokens` more."""
    prompt = clean(prompt)
    (encoded,) = model.encode([prompt], max_tokens=10**6)
    if not prompt.strip() or np.isin(encoded.ids, model.special).all():
        raise StitchLensError(
            "an empty prompt", "a few words", "type what the models shall go on from"
        )
    reads = limits_of(model.plain).context or 2 * MAX_TOKENS
    room = reads - tokens
    if room < 2:
        raise StitchLensError(
            f"{tokens:,} tokens to write",
            f"at most {reads - 2:,}: {model.spec.title} reads {reads:,} at once",
            "ask for fewer tokens",
        )
    if len(encoded.ids) > room:
        raise StitchLensError(
            f"a prompt of {len(encoded.ids):,} tokens",
            f"at most {room:,}",
            "shorten it, or ask for fewer tokens",
        )
    return torch.from_numpy(encoded.ids.astype(np.int64))


def check_width(model: LiveModel, lanes: Sequence[Lane]) -> None:
    """Raises StitchLensError where a vector is not one of this model's residual stream, or a
    stitched lane speaks through another model."""
    for stitched in (lane.stitched for lane in lanes if lane.stitched is not None):
        if stitched.model(stitched.speaker) is not model:
            raise StitchLensError(
                f"a lane {stitched.direction} of {model.spec.title}",
                f"one that {model.spec.title} speaks",
                "choose another direction",
            )
    for vector in (v for lane in lanes for v in lane.vectors):
        if vector.v.shape != (model.spec.d_model,):
            raise StitchLensError(
                f"a vector of width {len(vector.v)}",
                f"{model.spec.d_model}, that of {model.spec.title}",
                "use one of this model, or carry it over through a stitch",
            )
        if not 0 <= vector.layer < model.spec.n_layers:
            raise StitchLensError(
                f"a vector before layer {vector.layer}",
                f"0 to {model.spec.n_layers - 1}, those of {model.spec.title}",
                "choose a layer in that range",
            )


def generate(
    model: LiveModel,
    prompt: str,
    lanes: Sequence[Lane],
    sampling: Sampling | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[list[Written], None, None]:
    """After every token, what each lane has written: all lanes in one pass a token (SLOTS of them;
    more go in groups).

    A lane draws from random numbers of its own, so the same seed writes the same text whichever
    other lanes run. `stop` is asked before every token. Raises StitchLensError for a prompt or a
    vector that does not fit the model.
    """
    sampling = sampling or Sampling()
    ids = encode_prompt(model, prompt, sampling.tokens)
    check_width(model, lanes)
    batches = []
    for i in range(0, len(lanes), SLOTS):
        some = lanes[i : i + SLOTS]
        batches.append(
            _Batch(
                model,
                [ids] * len(some),
                some,
                sampling,
                [sampling.seed] * len(some),
                SLOTS,
                [prompt] * len(some),
            )
        )
    for _ in range(sampling.tokens):
        if stop() or all(lane.done for batch in batches for lane in batch.written):
            break
        for batch in batches:
            batch.step()
        yield [lane for batch in batches for lane in batch.written]


def respond(
    model: LiveModel,
    rows: Sequence[tuple[str, Lane, int]],
    sampling: Sampling,
    desc: str = "writing",
) -> list[Written]:
    """What is written for each (prompt, lane, seed), in bulk: rows with prompts of the same length
    go together, so nothing is padded."""
    check_width(model, [lane for _, lane, _ in rows])
    ids = [encode_prompt(model, prompt, sampling.tokens) for prompt, _, _ in rows]
    out: list[Written] = [Written(model) for _ in rows]
    by_length: dict[int, list[int]] = {}
    for i, x in enumerate(ids):
        by_length.setdefault(len(x), []).append(i)
    with Progress(desc, len(rows) * sampling.tokens) as bar:
        for some in by_length.values():
            for k in range(0, len(some), ROWS):
                at = some[k : k + ROWS]
                lanes, seeds = [rows[i][1] for i in at], [rows[i][2] for i in at]
                prompts = [rows[i][0] for i in at]
                batch = _Batch(
                    model, [ids[i] for i in at], lanes, sampling, seeds, len(at), prompts
                )
                while not all(w.done for w in batch.written):
                    batch.step()
                    bar.advance(len(at))
                for i, written in zip(at, batch.written, strict=True):
                    out[i] = written
    return out


def respond_and_score(
    model: LiveModel,
    rows: Sequence[tuple[str, Lane, int]],
    sampling: Sampling,
    desc: str = "writing",
) -> list[tuple[Written, float]]:
    """What `respond` gives for each row, and its nats/token after the prompt under the unsteered
    model."""
    written = respond(model, rows, sampling, desc)
    prompts = {prompt: encode_prompt(model, prompt, 1) for prompt, _, _ in rows}
    ids = [prompts[prompt] for prompt, _, _ in rows]
    losses = response_losses(model, ids, [response.ids for response in written])
    return list(zip(written, losses, strict=True))


def response_losses(
    model: LiveModel,
    prompts: Sequence[Tensor],
    responses: Sequence[Sequence[int]],
    rows: int = 32,
) -> list[float]:
    """Nats/token of each response (token ids) after its prompt (token ids) under the unsteered
    model; NaN for none."""
    out = [float("nan")] * len(responses)
    order = sorted(
        (i for i in range(len(responses)) if responses[i]),
        key=lambda i: len(prompts[i]) + len(responses[i]),
    )
    for k in range(0, len(order), rows):
        some = order[k : k + rows]
        ids = model.pad([np.r_[prompts[i].numpy(), responses[i]].astype(np.int32) for i in some])
        with torch.inference_mode():
            hidden = model.plain.base_model(input_ids=ids, use_cache=False).last_hidden_state
            for r, i in enumerate(some):
                n, m = len(prompts[i]), len(responses[i])
                logits = model.logits(hidden[r, n - 1 : n + m - 1])
                out[i] = float(torch.nn.functional.cross_entropy(logits, ids[r, n : n + m]))
    return out


class _Batch:
    """Rows with prompts of the same length and one cache; rows beyond the lanes are copies that
    nobody reads."""

    def __init__(
        self,
        model: LiveModel,
        prompts: Sequence[Tensor],
        lanes: Sequence[Lane],
        sampling: Sampling,
        seeds: Sequence[int],
        rows: int,
        texts: Sequence[str] = (),
    ) -> None:
        """`prompts` are the tokens of `texts`, which lanes of a stitched model need."""
        self.model, self.sampling, self.rows = model, sampling, rows
        self.written = [Written(model) for _ in lanes]
        self.next = torch.stack([*prompts, *[prompts[0]] * (rows - len(lanes))]).to(
            model.where.device
        )
        self.seen = [ids.unique() for ids in prompts]
        self.lanes = lanes
        self.crossing = dict[int, Row]()
        for k, lane in enumerate(lanes):
            if lane.stitched is not None:
                self.crossing[k] = Row(lane.stitched, clean(texts[k]))
        self.cache: Any = new_cache() if self.crossing else None
        self.wordless: Tensor | None = None
        self.read = 0
        """Positions that are in the cache."""
        self.random = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.steered = ~torch.isin(self.next, torch.from_numpy(model.special).to(self.next))
        self.ends = stop_tokens(model)
        self.changes = [changes([x if x.prompt else Lane() for x in lanes]), changes(lanes)]

    def step(self) -> None:
        first = self.read == 0
        for k, row in self.crossing.items():
            if not self.written[k].done:
                self._hear(k, row)
        with torch.inference_mode(), hooks.changed(self.model, self._hooks(first)):
            out = self.model.plain.base_model(
                input_ids=self.next,
                past_key_values=self.cache,
                use_cache=True,
            )
            self.cache = out.past_key_values
            self.read += self.next.shape[1]
            logits = self.model.logits(out.last_hidden_state[:, -1]).cpu()
            if self.wordless is None:
                self.wordless = wordless(self.model, logits.shape[-1])
            logits[:, self.wordless] = float("-inf")
        drawn = [self._draw(k, logits[k]) for k in range(len(self.written))]
        drawn += drawn[:1] * (self.rows - len(drawn))
        self.next = torch.tensor(drawn)[:, None].to(self.model.where.device)

    def _hear(self, k: int, row: Row) -> None:
        """Where a new token changes which earlier positions cross, they are computed again."""
        stale = row.hear(self.written[k].ids)
        if stale >= self.read:
            return

        lane = self.lanes[k]
        of_prompt = self.steered[k, stale : row.prompt] & lane.prompt
        written = self.read - max(stale, row.prompt)
        of_written = torch.ones(written, dtype=torch.bool)
        where = torch.cat([of_prompt, of_written.to(of_prompt)])
        again = together(
            {row.layer: {0: (row, stale)}},
            changes([lane]),
            where[None],
        )
        row.again(self.cache, k, stale, again)

    def _hooks(self, first: bool) -> dict[int, hooks.Change]:
        rows: dict[int, dict[int, tuple[Row, int]]] = {}
        for k, row in self.crossing.items():
            if not self.written[k].done:
                of_layer = rows.setdefault(row.layer, {})
                of_layer[k] = (row, self.read)
        if first:
            return together(rows, self.changes[0], self.steered)
        return together(rows, self.changes[1], None)

    def _draw(self, k: int, logits: Tensor) -> int:
        written = self.written[k]
        if written.done:
            return 0
        silent = self.lanes[k].silent
        if silent is not None:
            logits = logits.index_fill(0, silent, -torch.inf)
        token = draw(logits, self.seen[k], self.sampling, self.random[k])
        if token in self.ends:
            written.done = True
            return 0
        self.seen[k] = torch.cat([self.seen[k], torch.tensor([token])]).unique()
        written.ids.append(token)
        written.done = len(written.ids) == self.sampling.tokens
        return token


def stop_tokens(model: LiveModel) -> set[int]:
    """Ids at which a text ends: those of the model's generation config and of its tokenizer."""
    said = getattr(model.hf.generation_config, "eos_token_id", None)
    ends = said if isinstance(said, list) else [said]
    return {int(i) for i in [*ends, model.tokenizer.eos_token_id] if i is not None}


def wordless(model: LiveModel, rows: int) -> Bool[Tensor, " rows"]:
    """Rows of the unembedding that no token of the tokenizer has: a vocabulary that was padded to a
    round number has some, and what they were trained to is chance."""
    out = torch.ones(rows, dtype=torch.bool)

    words = torch.from_numpy(model.words)
    out[words[words < rows]] = False
    return out


def draw(
    logits: Tensor,
    used: Tensor,
    sampling: Sampling,
    random: torch.Generator,
) -> int:
    """One token id of `logits` [vocabulary], float32: repetition penalty on the `used` ids,
    temperature, then the smallest set that holds `top_p` of the probability."""
    logits = logits.clone()
    logits[used] = torch.where(
        logits[used] > 0, logits[used] / sampling.repetition, logits[used] * sampling.repetition
    )
    number = float(
        torch.rand((), generator=random, dtype=torch.float64)
    )  # one each token, whatever the temperature
    if sampling.temperature == 0:
        return int(logits.argmax())
    shares = torch.softmax(logits / sampling.temperature, dim=-1)
    p, ids = _likeliest(shares, sampling.top_p)
    total = p.double().cumsum(0)
    kept = min(int((total < sampling.top_p).sum()) + 1, len(p))
    return int(ids[int((total[:kept] <= number * total[kept - 1]).sum().clamp(max=kept - 1))])


def _likeliest(shares: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """(shares, ids) of tokens that hold `top_p` or more, the likeliest first: a sort of the whole
    vocabulary is slow, and hardly ever needed."""
    for most in LIKELY:
        p, ids = shares.topk(min(most, len(shares)))
        if float(p.sum()) >= top_p:
            return p, ids
    return shares.topk(len(shares))
