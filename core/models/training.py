"""Training of a small GPT-NeoX model: settings, loss, schedule and checkpoints.

The order of an epoch and the dropout of a step depend on the seed and on their number alone, so a
killed training goes on to the same weights.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.config import Frozen
from core.errors import StitchLensError
from core.models.live import Runtime
from core.models.pairs import NANO_CORPUS
from core.progress import Progress
from core.workspace.disk import beside

SAVE_SECONDS = 60.0


class Size(Frozen):
    """One model of the pair and its schedule (5 % warm-up, cosine to a tenth)."""

    layers: int
    width: int
    heads: int
    epochs: float
    rows: int
    """Contexts a step: few, for there is little text."""
    dropout: float = 0.0
    muon_lr: float = 0.02
    """Muon's peak rate, for the blocks' matrices."""
    adam_lr: float = 3e-3
    """AdamW's, for embeddings, norms and biases."""


class NanoConfig(Frozen):
    """Everything that decides the weights."""

    corpus: str = NANO_CORPUS
    vocabulary: int = 4096
    context: int = 256
    weight_decay: float = 0.1
    seed: int = 0
    documents: int | None = None
    """Of the fit split; None reads all."""
    a: Size = Size(layers=4, width=128, heads=2, epochs=8, rows=8)
    b: Size = Size(layers=6, width=256, heads=4, epochs=5, rows=12, dropout=0.1)


FAST = NanoConfig(
    vocabulary=1024,
    context=128,
    documents=2500,
    a=Size(layers=2, width=64, heads=2, epochs=1, rows=16),
    b=Size(layers=3, width=96, heads=2, epochs=1, rows=16),
)
"""A minute or two, to see that training works."""


@dataclass(frozen=True)
class Tokens:
    """Documents in tokens, each after FIRST."""

    fit: list[NDArray[np.int32]]
    select: list[NDArray[np.int32]]
    held_out: list[NDArray[np.int32]]


def untrained(config: NanoConfig, size: Size) -> Any:
    """A GPT-NeoX model with tied embeddings; its weights depend on the seed alone."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(config.seed)
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=config.vocabulary,
            hidden_size=size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            intermediate_size=4 * size.width,
            hidden_dropout=size.dropout,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def epoch_rows(
    documents: Sequence[NDArray[np.int32]],
    context: int,
    seed: int,
    epoch: int,
) -> Tensor:
    """[n, context] ids: the documents of one epoch in its own order, laid end to end; the last few
    tokens fall off."""
    order = np.random.default_rng([seed, epoch]).permutation(len(documents))
    ids = np.concatenate([documents[i] for i in order])

    # Packed rows: a context may hold the end of one document and the beginning of the next, each
    # after a first token of its own, so that no token is padding.
    n = len(ids) // context
    rows = ids[: n * context].reshape(n, context)
    return torch.from_numpy(rows.astype(np.int64))


def document_loss(
    model: Any,
    documents: Sequence[NDArray[np.int32]],
    where: Runtime,
    budget: int = 8192,
) -> float:
    """Mean next-token cross-entropy over all tokens of the documents but the first of each,
    nats/token."""
    ordered = sorted((document for document in documents if len(document) > 1), key=len)
    loss = 0.0
    was_training = model.training
    model.eval()
    with torch.inference_mode(), _autocast(where):
        for group in _batches(ordered, budget):
            ids = torch.zeros(len(group), len(group[-1]), dtype=torch.long)
            targets = torch.full_like(ids, -100)  # which cross_entropy passes over
            for row, document in enumerate(group):
                tokens = torch.from_numpy(document)
                ids[row, : len(tokens)] = tokens
                targets[row, : len(tokens) - 1] = tokens[1:]

            ids, targets = ids.to(where.device), targets.to(where.device)
            loss += float(_cross_entropy(model, ids, targets, "sum"))
    model.train(was_training)
    return loss / sum(len(document) - 1 for document in ordered)


def _batches(
    ordered: Sequence[NDArray[np.int32]], budget: int
) -> Iterator[Sequence[NDArray[np.int32]]]:
    """Documents of rising length in groups of at most `budget` tokens with their padding."""
    start = 0
    while start < len(ordered):
        end = start + 1
        while end < len(ordered) and len(ordered[end]) * (end - start + 1) <= budget:
            end += 1
        yield ordered[start:end]
        start = end


def unigram_loss(
    fit: Sequence[NDArray[np.int32]],
    other: Sequence[NDArray[np.int32]],
    vocabulary: int,
) -> float:
    """Cross-entropy of `other` under the add-one token frequencies of `fit`, nats/token."""
    read = np.concatenate([document[1:] for document in fit])
    counts = Counter(read.tolist())
    smoothed = np.array([counts[token] + 1.0 for token in range(vocabulary)])
    losses = -np.log(smoothed / smoothed.sum())

    scored = np.concatenate([document[1:] for document in other])
    return float(losses[scored].mean())


def _autocast(where: Runtime) -> torch.autocast:
    return torch.autocast(
        where.device.type, dtype=where.dtype, enabled=where.dtype != torch.float32
    )


def _cross_entropy(
    model: Any,
    ids: Tensor,
    targets: Tensor,
    reduction: str,
) -> Tensor:
    logits = model(input_ids=ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1), reduction=reduction
    )


def _warmth(step: int, steps: int) -> float:
    """Share of the peak rate: 5 % warm-up, then cosine to a tenth."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm

    angle = np.pi * (step - warm) / max(1, steps - warm)
    return 0.1 + 0.45 * (1 + float(np.cos(angle)))


def _optimisers(
    model: Any,
    size: Size,
    weight_decay: float,
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for all else: on so few tokens far below AdamW alone."""
    matrices, embedding, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if "embed_in" in name:
            embedding.append(parameter)
        elif parameter.dim() == 2:
            matrices.append(parameter)
        else:
            vectors.append(parameter)

    muon = torch.optim.Muon(matrices, lr=size.muon_lr, weight_decay=weight_decay)
    groups = [
        {"params": embedding, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},  # norms and biases
    ]
    adam = torch.optim.AdamW(groups, lr=size.adam_lr, betas=(0.9, 0.95), fused=True)
    return muon, adam


def diverged(
    loss: float,
    step: int,
    where: Runtime,
) -> StitchLensError:
    """The rates are those that the shipped models were trained with: what remains is precision and
    the machine."""
    coarse = where.dtype != torch.float32 or where.device.type != "cpu"
    return StitchLensError(
        f"a loss of {loss} at step {step}",
        "a finite one",
        "set STITCHLENS_DTYPE to float32 and STITCHLENS_DEVICE to cpu, and run it again"
        if coarse
        else "run `python -m core doctor`: the packages are not those that it was tested with, or"
        " the machine computes wrongly",
    )


def train_model(
    config: NanoConfig,
    size: Size,
    tokens: Tokens,
    where: Runtime,
    desc: str,
    folder: Path,
) -> tuple[Any, list[dict[str, float]]]:
    """The trained model and its curve (epoch, step, fit and select loss in nats/token, seconds);
    checkpoints lie in `folder`, and training goes on from there."""
    model = untrained(config, size).to(where.device).train()
    optimisers = _optimisers(model, size, config.weight_decay)
    per_epoch = sum(map(len, tokens.fit)) // config.context // size.rows
    steps = max(1, round(size.epochs * per_epoch))
    checkpoint = folder / "state.safetensors"
    start, curve = _restore(checkpoint, model, optimisers)

    rows = None
    losses: list[float] = []
    read = size.rows * config.context
    began = saved = time.monotonic()
    before = curve[-1]["seconds"] if curve else 0.0
    with Progress(desc, steps * read, "tok", initial=start * read) as bar:
        for step in range(start, steps):
            epoch, within = divmod(step, per_epoch)
            if rows is None or within == 0:
                rows = epoch_rows(tokens.fit, config.context, config.seed, epoch)
            ids = rows[within * size.rows : (within + 1) * size.rows].to(where.device)

            # Dropout is drawn anew for each step by its number: a training that goes on draws the
            # same.
            torch.manual_seed(config.seed * 1_000_003 + step)
            _warm(optimisers, size, _warmth(step, steps))
            loss = _step(model, optimisers, ids, where)
            if not np.isfinite(loss):
                raise diverged(loss, step, where)
            losses.append(loss)
            bar.advance(read)

            last = step + 1 == steps
            if within + 1 == per_epoch or last:
                point = {
                    "epoch": (step + 1) / per_epoch,
                    "step": step + 1,
                    "fit": float(np.mean(losses)),
                    "select": document_loss(model, tokens.select, where),
                    "seconds": before + time.monotonic() - began,
                }
                curve.append(point)
                losses = []
            if last or time.monotonic() - saved > SAVE_SECONDS:
                _save(checkpoint, model, optimisers, step + 1, curve)
                saved = time.monotonic()
    return model.eval(), curve


def _warm(
    optimisers: Sequence[torch.optim.Optimizer],
    size: Size,
    share: float,
) -> None:
    """Set both rates to a share of their peaks."""
    peaks = (size.muon_lr, size.adam_lr)
    for optimiser, peak in zip(optimisers, peaks, strict=True):
        for group in optimiser.param_groups:
            group["lr"] = peak * share


def _step(
    model: Any,
    optimisers: Sequence[torch.optim.Optimizer],
    ids: Tensor,
    where: Runtime,
) -> float:
    """One update on ids [rows, context]; the loss before it, nats/token."""
    with _autocast(where):
        loss = _cross_entropy(model, ids[:, :-1], ids[:, 1:], "mean")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)

    for optimiser in optimisers:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return loss.item()


def _slots(
    optimisers: Sequence[torch.optim.Optimizer],
) -> list[tuple[str, torch.optim.Optimizer, Tensor]]:
    """(name, optimiser, parameter) of everything that has optimiser state."""
    return [
        (f"{k}.{i}", optimiser, p)
        for k, optimiser in enumerate(optimisers)
        for i, p in enumerate(p for g in optimiser.param_groups for p in g["params"])
    ]


def _save(
    path: Path,
    model: Any,
    optimisers: Sequence[torch.optim.Optimizer],
    step: int,
    curve: list[dict[str, float]],
) -> None:
    state = {f"model.{k}": v for k, v in model.named_parameters()}
    for slot, optimiser, p in _slots(optimisers):
        state |= {f"optimiser.{slot}.{name}": v for name, v in optimiser.state[p].items()}
    plain = {k: v.detach().contiguous().cpu() for k, v in state.items()}
    with beside(path) as part:
        save_file(plain, part, {"step": str(step), "curve": json.dumps(curve)})


def _restore(
    path: Path,
    model: Any,
    optimisers: Sequence[torch.optim.Optimizer],
) -> tuple[int, list[dict[str, float]]]:
    """(steps done, curve); fills model and optimisers. (0, []) where there is no checkpoint."""
    if not path.exists():
        return 0, []
    with safe_open(path, "pt") as f:
        note = f.metadata()
    state = load_file(path)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(state[f"model.{name}"])
    for slot, optimiser, p in _slots(optimisers):
        prefix = f"optimiser.{slot}."
        values = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        optimiser.state[p] = {k: v if k == "step" else v.to(p.device) for k, v in values.items()}
    return int(note["step"]), json.loads(note["curve"])
