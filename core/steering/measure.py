"""The language evaluation of steering (4, F): does the response come out in the language of the
vector?

Of our own neutral English prompts one half chooses, for each language and kind of vector, stitch,
layers and strength; the figures come from the other half. What keeps the rate honest stands beside
it: fluency, repetition, a random vector.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from core.bench import Bench
from core.config import Frozen
from core.errors import StitchLensError
from core.models.live import LiveModel
from core.progress import Progress
from core.statistics import share_interval
from core.steering.generate import respond_and_score, response_losses
from core.steering.keys import Kind, LaneKey, Side
from core.steering.lanes import Lane
from core.steering.settings import Sampling, Setting
from core.steering.sources import Language
from core.steering.studio import Studio
from core.steering.vectors import language_means
from core.text.corpus import Document
from core.text.languages import (
    LABELS,
    LANGUAGES,
    UNKNOWN,
    by_language,
    detect,
    prompts,
    repetition,
    transfer_gap,
)
from core.workspace.disk import fingerprint, only_one
from core.workspace.places import user_cache
from core.workspace.units import share_tables

TOGETHER = 6
"""Languages written together by one of the processes that share the work; what is finished of
these survives a stop."""
REPEATS = 0.3
"""A response is fluent where at most this share of its runs of words is repeated and its loss is at
most that of real text in its language."""
SIDES: tuple[Side, ...] = ("b", "a")
STEERED: tuple[Kind, ...] = ("own", "transferred", "random")


class Candidate(NamedTuple):
    """One way to steer, among those that the first half of the prompts chooses from."""

    stitch: str
    span: int
    """Layers steered, from the stitch's on."""
    strength: float


class SteerConfig(Frozen):
    """How much is written and measured."""

    languages: tuple[str, ...] | None = None
    """Codes such as 'fr'; None takes every language that has text and that langdetect knows."""
    stitches: tuple[str, ...] | None = None
    """None takes all of the workspace."""
    spans: tuple[int, ...] = (1, 3)
    strengths: tuple[float, ...] = (1.0, 1.5)
    choosing: int = 6
    """Prompts of the first half that choose."""
    prompts: int | None = None
    """Prompts of the second half that are measured; None takes all."""
    tokens: int = 40
    temperature: float = 0.5
    repetition: float = 1.1
    texts: int = 60
    """Documents of each language for its mean."""
    seed: int = 0

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            tokens=self.tokens, temperature=self.temperature, repetition=self.repetition
        )


def natural_losses(
    model: LiveModel,
    documents: Sequence[Document],
    most: int = 12,
) -> dict[str, float]:
    """Nats/token of real text, by corpus label: the first 160 tokens of the first `most` documents
    of each language."""
    by_label = by_language(documents, most)
    out = {}
    with Progress(
        f"real text under {model.spec.title}", sum(map(len, by_label.values())), "texts"
    ) as bar:
        for label, texts in by_label.items():
            ids = [torch.from_numpy(e.ids) for e in model.encode(texts, min(160, model.context))]
            out[label] = float(
                np.mean(response_losses(model, [x[:1] for x in ids], [x[1:].tolist() for x in ids]))
            )
            bar.advance(len(texts))
    return out


def prepare(bench: Bench, config: SteerConfig) -> None:
    """The artifacts `language_means/a` and `_b`: of A the tokens that pair up with one of B, of B
    all."""
    documents = bench.corpus.split("fit")
    for side, model, partner in (("a", bench.a, bench.b), ("b", bench.b, None)):
        same = bench.a.tokenizer_hash == bench.b.tokenizer_hash
        makers = bench.makers | {
            "side": side,
            "texts": config.texts,
            "paired": partner is not None and not same,
        }
        with only_one(bench.pair.key, f"language means of {side}", wait=True):
            if not bench.current(f"language_means/{side}", makers):
                found = language_means(model, documents, None if same else partner, config.texts)
                bench.workspace.put(
                    f"language_means/{side}", found.save, "vectors", ".safetensors", makers
                )


def languages(studio: Studio, config: SteerConfig) -> list[str]:
    """Corpus labels to evaluate. Raises StitchLensError for a language that is not there."""
    there = [label for label in studio.means("b").labels if label != "eng" and label not in UNKNOWN]
    if config.languages is None:
        return there
    wanted = [LABELS.get(code, code) for code in config.languages]
    if missing := [
        code for code, label in zip(config.languages, wanted, strict=True) if label not in there
    ]:
        codes = ", ".join(sorted(LANGUAGES[label][0] for label in there))
        raise StitchLensError(f"no text in {', '.join(missing)}", f"of {codes}", "leave it out")
    return wanted


class Evaluation:
    """One run over both sides; each part that is done is kept in the user's cache, where other
    processes with the same settings find it."""

    def __init__(self, bench: Bench, config: SteerConfig) -> None:
        self.bench, self.config = bench, config
        prepare(bench, config)
        ws = bench.workspace
        names = [n.removeprefix("stitches/") for n in ws.names(prefix="stitches/")]
        self.names = list(config.stitches or names)
        if missing := [n for n in self.names if n not in names]:
            raise StitchLensError(
                f"no stitch {', '.join(missing)}",
                f"of {', '.join(names) or 'none yet'}",
                "name others",
            )
        self.studios = {name: Studio(bench, name) for name in self.names}
        self.any = self.studios[self.names[0]]
        self.labels = languages(self.any, config)
        made = {name: fingerprint(ws.entry(f"stitches/{name}").makers) for name in self.names}
        self.makers = (
            bench.makers
            | config.model_dump(mode="json")
            | {
                "made": made,
                "prompts_text": fingerprint(prompts()),
            }
        )
        self.folder = user_cache() / "steering" / fingerprint(self.makers)
        self.natural: dict[str, dict[str, float]] = {}

    def lane(
        self,
        side: Side,
        label: str,
        kind: Kind,
        c: Candidate,
    ) -> Lane | None:
        """None where there is no such lane: a span beyond the last layer."""
        studio = self.studios[c.stitch]
        first = studio.stitched(side)
        if first + c.span > studio.spec(side).n_layers:
            return None
        layers = (first, first + c.span - 1)
        setting = Setting(strength=c.strength, layers_a=layers, layers_b=layers)
        source = studio.directions(Language(label))
        return studio.lane(source, LaneKey(side, kind), setting)

    def candidates(self) -> list[Candidate]:
        return [
            Candidate(n, k, s)
            for n in self.names
            for k in self.config.spans
            for s in self.config.strengths
        ]

    def write(
        self,
        side: Side,
        cells: Sequence[tuple[dict[str, Any], Lane]],
        texts: Sequence[tuple[int, str]],
        desc: str,
    ) -> pd.DataFrame:
        """A row a cell and prompt: the cell's own columns, `prompt` (its number), `text`,
        `detected`, `probability`, `loss`, `repetition`, `hit` (in the cell's language),
        `fluent`."""
        model = self.any.model(side)
        rows = [(text, lane, self.config.seed + k) for _, lane in cells for k, text in texts]
        out = []
        scored = respond_and_score(model, rows, self.config.sampling, desc)
        for i, (w, loss) in enumerate(scored):
            cell, (k, _) = cells[i // len(texts)][0], texts[i % len(texts)]
            language, probability = detect(w.text)
            repeats = repetition(w.text)
            limit = self.natural[side].get(cell["label"], float("inf"))
            out.append(
                cell
                | {
                    "prompt": k,
                    "text": w.text,
                    "detected": language,
                    "probability": probability,
                    "loss": loss,
                    "repetition": repeats,
                    "hit": language == LANGUAGES[cell["label"]][0],
                    "fluent": bool(loss <= limit and repeats <= REPEATS),
                }
            )
        return pd.DataFrame(out)

    def choose(
        self,
        side: Side,
        labels: Sequence[str],
        texts: Sequence[tuple[int, str]],
    ) -> pd.DataFrame:
        """How each candidate did on the first half: a row a language, kind and candidate."""
        cells = []
        for label in labels:
            for kind in STEERED[:2]:
                for c in self.candidates():
                    lane = self.lane(side, label, kind, c)
                    if lane is not None:
                        cells.append(({"label": label, "kind": kind, **c._asdict()}, lane))
        table = self.write(side, cells, texts, f"choosing, {side.upper()}, {', '.join(labels)}")
        table["success"] = table.hit & table.fluent
        groups = ["label", "kind", "stitch", "span", "strength"]
        found = table.groupby(groups, sort=False).agg(
            n=("hit", "size"),
            rate=("hit", "mean"),
            success=("success", "mean"),
            loss=("loss", "mean"),
        )
        return found.reset_index()

    def measure(
        self,
        side: Side,
        labels: Sequence[str],
        choice: pd.DataFrame,
        texts: Sequence[tuple[int, str]],
    ) -> pd.DataFrame:
        """What was written to the second half with each language's and kind's best candidate; a
        random vector takes the place of the transferred one in its own setting."""
        cells = []
        for label in labels:
            for kind in STEERED:
                c = best(choice, label, "transferred" if kind == "random" else kind)
                lane = self.lane(side, label, kind, c)
                assert lane is not None
                cells.append(({"label": label, "kind": kind, **c._asdict()}, lane))
        return self.write(side, cells, texts, f"writing, {side.upper()}, {', '.join(labels)}")

    def unsteered(self, side: Side, texts: Sequence[tuple[int, str]]) -> pd.DataFrame:
        """One text a prompt, judged for every language."""
        cell = {"label": "eng", "kind": "none", "stitch": "", "span": 0, "strength": 0.0}
        return self.write(side, [(cell, Lane())], texts, f"writing, {side.upper()}, unsteered")

    def run(self) -> None:
        """Puts `steering`, `steering_choice` and `generations` into the workspace. Processes with
        the same settings share what is to be written."""
        first, second = (list(enumerate(half)) for half in prompts())
        first, second = first[: self.config.choosing], second[: self.config.prompts]
        chunks = [self.labels[i : i + TOGETHER] for i in range(0, len(self.labels), TOGETHER)]
        parts = {
            f"{side}-{fingerprint(chunk)}": (side, chunk) for side in SIDES for chunk in chunks
        }

        held_out = self.bench.corpus.split("held-out")
        made: dict[str, pd.DataFrame] = {}

        def make(units: dict[str, Callable[[], pd.DataFrame]]) -> None:
            made.update(share_tables(self.folder, units))

        make(
            {f"{side}-natural": partial(_natural, self.any.model(side), held_out) for side in SIDES}
        )
        for side in SIDES:
            natural = made[f"{side}-natural"]
            self.natural[side] = dict(zip(natural.label, natural.loss, strict=True))

        make({f"{name}-choice": partial(self.choose, *part, first) for name, part in parts.items()})
        make({f"{side}-none": partial(self.unsteered, side, second) for side in SIDES})
        make(
            {
                name: partial(self.measure, *part, made[f"{name}-choice"], second)
                for name, part in parts.items()
            }
        )

        choices, texts, sums = [], [], []
        for side in SIDES:
            own = [name for name, (of, _) in parts.items() if of == side]
            choices += [made[f"{name}-choice"].assign(side=side) for name in own]
            written = pd.concat([made[f"{side}-none"], *(made[x] for x in own)], ignore_index=True)
            texts.append(written.assign(side=side))
            sums.append(summary(written, self.natural[side]).assign(side=side))
        characters: dict[str, int] = {}
        for d in self.bench.corpus.documents:
            label = d.label.split("/")[0]
            characters[label] = characters.get(label, 0) + len(d.text)
        sums = [table.assign(characters=table.label.map(characters)) for table in sums]
        tables = {"steering_choice": choices, "generations": texts, "steering": sums}
        put = {name: pd.concat(some, ignore_index=True) for name, some in tables.items()}
        self.bench.put_tables(put, self.makers)


def _natural(model: LiveModel, documents: Sequence[Document]) -> pd.DataFrame:
    values = natural_losses(model, documents)
    return pd.DataFrame({"label": list(values), "loss": list(values.values())})


def best(
    choice: pd.DataFrame,
    label: str,
    kind: str,
) -> Candidate:
    """The candidate with the most fluent responses in the language, then the most in the language,
    then the least loss."""
    some = choice.loc[(choice.label == label) & (choice.kind == kind)]
    row = some.sort_values(
        ["success", "rate", "loss"], ascending=[False, False, True], kind="stable"
    ).iloc[0]
    return Candidate(str(row.stitch), int(row.span), float(row.strength))


def summary(written: pd.DataFrame, natural: dict[str, float]) -> pd.DataFrame:
    """One row a language and kind: `n`, `rate` of responses in the language with its interval
    `low`, `high`; `success`, the share that are fluent besides; `loss`, `repetition` on average,
    `natural` (the loss of real text); the setting; `gap` (Eq. 16) of transferred over own."""
    plain, rows = written.loc[written.kind == "none"], []
    for label in [x for x in written.label.unique() if x != "eng"]:
        code, name = LANGUAGES[label]
        some = written.loc[written.label == label]
        rates: dict[str, float] = {}
        for kind in ("none", *STEERED):
            part = plain if kind == "none" else some.loc[some.kind == kind]
            hits = part.detected == code
            rates[kind] = float(hits.mean())
            low, high = share_interval(int(hits.sum()), len(hits))
            one = part.iloc[0]
            rows.append(
                {
                    "label": label,
                    "language": code,
                    "name": name,
                    "kind": kind,
                    "n": len(part),
                    "rate": rates[kind],
                    "low": low,
                    "high": high,
                    "success": float((hits & part.fluent).mean()),
                    "loss": float(part.loss.mean()),
                    "repetition": float(part.repetition.mean()),
                    "natural": natural.get(label, float("nan")),
                    "stitch": one.stitch,
                    "span": int(one.span),
                    "strength": float(one.strength),
                    "gap": (
                        transfer_gap(rates["transferred"], rates["own"])
                        if kind == "transferred"
                        else float("nan")
                    ),
                }
            )
    return pd.DataFrame(rows)


def evaluate(bench: Bench, config: SteerConfig | None = None) -> None:
    """The whole evaluation of a pair, into its workspace; one that was stopped goes on, and several
    processes share it."""
    Evaluation(bench, config or SteerConfig()).run()
