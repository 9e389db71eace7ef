"""The evaluation of instruction steering (F.2, Fig. 12 and 13): does a response follow an
instruction that only the vector knows?

A vector is DiffMean of requests with and without the instruction, at the last token of the prompt.
As in `core.steering.measure` one half of the requests gives vectors and chooses stitch and
strength, and the figures come from the other half. Beside it stand no vector, a random one that
pushes as far, and the instruction in words.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from core.bench import Bench
from core.config import Frozen
from core.errors import StitchLensError
from core.models.live import LiveModel
from core.models.pairs import SIDES, PairSpec
from core.progress import Progress
from core.statistics import share_interval
from core.steering.directions import from_means
from core.steering.generate import respond_and_score
from core.steering.instructions import (
    CONDITIONS,
    Instruction,
    InstructionSet,
    as_prompt,
    chats,
    load_instructions,
)
from core.steering.keys import Kind, LaneKey, Side
from core.steering.lanes import Lane
from core.steering.last_token import instruction_means, last_token_means
from core.steering.measure import REPEATS, STEERED, Candidate, best
from core.steering.settings import STRONGEST, Sampling, Setting
from core.steering.studio import Studio
from core.steering.vectors import Means
from core.text.languages import repetition, transfer_gap
from core.workspace.disk import fingerprint
from core.workspace.places import user_cache
from core.workspace.units import share_tables

TOGETHER = 5
"""Instructions written together by one of the processes that share the work; what is finished of
these survives a stop."""
UNSTEERED = {"stitch": "", "span": 0, "strength": 0.0}
"""The setting of a response that no vector touches."""
Strength = Annotated[float, Field(ge=-STRONGEST, le=STRONGEST)]
"""Of Eq. 8's clamp."""
Row = tuple[dict[str, Any], str, Lane]
"""What is known of a response before it is written, the request, and what steers it."""


class FollowConfig(Frozen):
    """How much is written and measured."""

    instructions: tuple[str, ...] | None = None
    """Keys such as 'capitals'; None takes all."""
    steered: tuple[Side, ...] | None = None
    """None takes the models with a chat template."""
    stitches: tuple[str, ...] | None = None
    """None takes all of the workspace."""
    strengths: tuple[Strength, ...] = Field(default=(1.0, 2.0, 4.0), min_length=1)
    choosing: int = Field(default=4, ge=1)
    """Requests of the first half that choose."""
    prompts: int | None = Field(default=None, ge=1)
    """Requests of the second half that are measured; None takes all."""
    tokens: int = Field(default=64, ge=1, le=1000)
    repetition: float = Field(default=1.1, ge=0.5, le=3)

    @property
    def sampling(self) -> Sampling:
        """The likeliest token each time."""
        return Sampling(tokens=self.tokens, temperature=0, repetition=self.repetition)


QUICK = FollowConfig(strengths=(1.0, 2.0), choosing=2, prompts=8, tokens=32)
"""A first look."""


def sides(
    pair: PairSpec,
    models: dict[Side, LiveModel],
    config: FollowConfig,
) -> tuple[Side, ...]:
    """The models that are steered. Raises StitchLensError where none was taught to answer and none
    is named."""
    if config.steered is not None:
        return config.steered
    taught: tuple[Side, ...] = tuple(side for side in SIDES if chats(models[side]))
    if not taught:
        raise StitchLensError(
            f"two base models: neither {pair.a.title} nor {pair.b.title} has a chat template",
            "a model that was taught to follow instructions",
            "choose a pair with one, or name the model that shall be steered with --steered all the"
            " same; it then goes on from bare requests",
        )
    return taught


def warnings(models: dict[Side, LiveModel], steered: Sequence[Side]) -> list[str]:
    """What a reader should know of base models: one sentence each."""
    sentences = []
    for side, model in models.items():
        if not chats(model):
            name = model.spec.title
            what = "it goes on from" if side in steered else "its vectors come from"
            sentences.append(
                f"{name} is a base model: it has no chat template and was not taught to follow"
                f" instructions, so {what} bare requests."
            )
    return sentences


class Following:
    """One run; each part that is done is kept in the user's cache, where other processes with the
    same settings find it."""

    def __init__(
        self,
        bench: Bench,
        config: FollowConfig,
        texts: InstructionSet,
    ) -> None:
        self.bench, self.config, self.texts = bench, config, texts
        self.models: dict[Side, LiveModel] = {"a": bench.a, "b": bench.b}
        self.sides = sides(bench.pair, self.models, config)
        self.instructions = texts.some(config.instructions)
        ws = bench.workspace
        there = [name.removeprefix("stitches/") for name in ws.names(prefix="stitches/")]
        names = list(config.stitches or there)
        if not names or not set(names) <= set(there):
            raise StitchLensError(
                f"no stitch {', '.join(name for name in names if name not in there)}".rstrip(),
                f"of {', '.join(there) or 'none yet'}",
                "name others",
            )
        self.studios = {name: Studio(bench, name) for name in names}
        self.first, self.second = texts.choosing, texts.measured[: config.prompts]
        self.means: dict[tuple[Side, str], dict[int, Means]] = {}

        made = {name: fingerprint(ws.entry(f"stitches/{name}").makers) for name in names}
        self.makers = (
            bench.makers
            | config.model_dump(mode="json", exclude={"steered", "instructions"})
            | {
                "made": made,
                "requests": fingerprint([texts.choosing, texts.measured]),
                "chat_template": {side: chats(self.models[side]) for side in SIDES},
            }
        )
        self.folder = user_cache() / "instructions" / fingerprint(self.makers)

    def read(self) -> None:
        """The means of both models, before every layer that a stitch joins."""
        with Progress("instructions", len(SIDES) * len(self.instructions), "instructions") as bar:
            for side in SIDES:
                model = self.models[side]
                layers = sorted({studio.stitched(side) for studio in self.studios.values()})
                plain = last_token_means(model, self.first, layers)
                for one in self.instructions:
                    self.means[side, one.key] = instruction_means(
                        model, one, self.first, layers, plain
                    )
                    bar.advance(1)

    def lane(
        self,
        side: Side,
        instruction: str,
        kind: Kind,
        candidate: Candidate,
    ) -> Lane:
        if not self.means:
            self.read()
        source = from_means(lambda which, layer: self.means[which, instruction][layer])
        setting = Setting(strength=candidate.strength)
        return self.studios[candidate.stitch].lane(source, LaneKey(side, kind), setting)

    def write(
        self,
        side: Side,
        rows: Sequence[Row],
        desc: str,
    ) -> pd.DataFrame:
        """Of each row its own columns, and `prompt` (the bare request), `text`, `loss` (nats/token
        after what it went on from, under the unsteered model), `repetition`."""
        model = self.models[side]
        prompts = [as_prompt(model, request) for _, request, _ in rows]
        asked = [(text, lane, 0) for text, (_, _, lane) in zip(prompts, rows, strict=True)]
        scored = respond_and_score(model, asked, self.config.sampling, desc)
        return pd.DataFrame(
            {
                "prompt": request,
                "text": response.text,
                "loss": loss,
                "repetition": repetition(response.text),
            }
            | cell
            for (cell, request, _), (response, loss) in zip(rows, scored, strict=True)
        )

    def judge(self, written: pd.DataFrame) -> pd.DataFrame:
        """With `hit`, whether the row's instruction was followed, and `fluent`, without loops."""
        follows = {one.key: one.follows for one in self.instructions}
        hits = [follows[key](text) for key, text in zip(written.label, written.text, strict=True)]
        return written.assign(hit=hits, fluent=written.repetition <= REPEATS)

    def candidates(self, side: Side, some: Sequence[Instruction]) -> pd.DataFrame:
        """What was written to the first half: a row an instruction, kind, candidate and request."""
        rows: list[Row] = []
        settings = [(name, k) for name in self.studios for k in self.config.strengths]
        for one in some:
            for kind in STEERED[:2]:
                for name, strength in settings:
                    candidate = Candidate(name, 1, strength)
                    lane = self.lane(side, one.key, kind, candidate)
                    cell = {"label": one.key, "kind": kind, **candidate._asdict()}
                    first = self.first[: self.config.choosing]
                    rows += [(cell, request, lane) for request in first]
        return self.write(side, rows, self._saying("choosing", side, some))

    def steer(
        self,
        side: Side,
        some: Sequence[Instruction],
        choice: pd.DataFrame,
    ) -> pd.DataFrame:
        """What was written to the second half with each instruction's and kind's best candidate; a
        random vector takes the place of the transferred one in its own setting."""
        rows: list[Row] = []
        for one in some:
            for kind in STEERED:
                chosen = best(choice, one.key, "transferred" if kind == "random" else kind)
                lane = self.lane(side, one.key, kind, chosen)
                cell = {"label": one.key, "kind": kind, **chosen._asdict()}
                rows += [(cell, request, lane) for request in self.second]
        return self.write(side, rows, self._saying("writing", side, some))

    def unsteered(self, side: Side) -> pd.DataFrame:
        """One text a request, which every instruction is judged by."""
        cell = {"kind": "none", **UNSTEERED}
        rows: list[Row] = [(cell, request, Lane()) for request in self.second]
        return self.write(side, rows, self._saying("writing without a vector", side))

    def prompted(self, side: Side, some: Sequence[Instruction]) -> pd.DataFrame:
        """The ceiling: no vector, the instruction in words."""
        rows: list[Row] = []
        for one in some:
            cell = {"label": one.key, "kind": "prompted", **UNSTEERED}
            rows += [(cell, request, Lane()) for request in one.asked(self.second)]
        written = self.write(side, rows, self._saying("writing as asked", side, some))
        return written.assign(prompt=[*self.second] * len(some))

    def _saying(
        self,
        what: str,
        side: Side,
        some: Sequence[Instruction] = (),
    ) -> str:
        return ", ".join([f"{what}, {side.upper()}", *(one.key for one in some)])

    def run(self) -> None:
        """Puts `steering_instructions/SIDE/rates`, its `choice` and its `texts` into the
        workspace. Processes with the same settings share what is to be written."""
        starts = range(0, len(self.instructions), TOGETHER)
        chunks = [self.instructions[i : i + TOGETHER] for i in starts]
        parts = {
            f"{side}-{fingerprint([one.model_dump() for one in some])}": (side, some)
            for side in self.sides
            for some in chunks
        }

        tried = share_tables(
            self.folder,
            {f"{name}-choice": partial(self.candidates, *part) for name, part in parts.items()},
        )
        choices = {name: choices_of(self.judge(tried[f"{name}-choice"])) for name in parts}
        steered = {name: partial(self.steer, *part, choices[name]) for name, part in parts.items()}
        asked = {f"{name}-asked": partial(self.prompted, *part) for name, part in parts.items()}
        plain = {f"{side}-none": partial(self.unsteered, side) for side in self.sides}
        written = share_tables(self.folder, plain | steered | asked)

        for side in self.sides:
            own = {name: some for name, (of, some) in parts.items() if of == side}
            texts = []
            for name, some in own.items():
                texts += [written[f"{side}-none"].assign(label=one.key) for one in some]
                texts += [written[name], written[f"{name}-asked"]]
            judged = self.judge(pd.concat(texts, ignore_index=True))
            self._put(side, judged, pd.concat([choices[x] for x in own], ignore_index=True))

    def _put(
        self,
        side: Side,
        judged: pd.DataFrame,
        choice: pd.DataFrame,
    ) -> None:
        titles = {one.key: one.title for one in self.instructions}
        tables = {
            "choice": choice,
            "texts": judged,
            "rates": summary(judged, titles),
        }
        makers = self.makers | {
            "steered": side,
            "instructions": list(titles),
            "wordings": fingerprint([one.model_dump() for one in self.instructions]),
        }
        named = {f"steering_instructions/{side}/{name}": x for name, x in tables.items()}
        self.bench.put_tables(named, makers)


def choices_of(judged: pd.DataFrame) -> pd.DataFrame:
    """How each candidate did: a row an instruction, kind and candidate, with `n`, `rate`,
    `success` and `loss`."""
    groups = ["label", "kind", "stitch", "span", "strength"]
    by_candidate = judged.assign(success=judged.hit & judged.fluent).groupby(groups, sort=False)
    table = by_candidate.agg(
        n=("hit", "size"),
        rate=("hit", "mean"),
        success=("success", "mean"),
        loss=("loss", "mean"),
    )
    return table.reset_index()


def summary(written: pd.DataFrame, titles: dict[str, str]) -> pd.DataFrame:
    """One row an instruction (`label`, `title`) and `kind` of CONDITIONS: `n`, `rate` of responses
    that follow with its interval `low`, `high`; `success`, the share that do not repeat themselves
    besides; `loss`, `repetition` on average; the setting; `gap` (Eq. 16) of transferred over own.
    """
    rows = []
    for label in titles:
        some = written.loc[written.label == label]
        rates: dict[str, float] = {}
        for kind in CONDITIONS:
            part = some.loc[some.kind == kind]
            hits = int(part.hit.sum())
            rates[kind] = hits / len(part)
            low, high = share_interval(hits, len(part))
            setting = part.iloc[0]
            carried = kind == "transferred"
            rows.append(
                {
                    "label": label,
                    "title": titles[label],
                    "kind": kind,
                    "n": len(part),
                    "rate": rates[kind],
                    "low": low,
                    "high": high,
                    "success": float((part.hit & part.fluent).mean()),
                    "loss": float(part.loss.mean()),
                    "repetition": float(part.repetition.mean()),
                    "stitch": str(setting.stitch),
                    "strength": float(setting.strength),
                    "gap": (
                        transfer_gap(rates["transferred"], rates["own"])
                        if carried
                        else float("nan")
                    ),
                }
            )
    return pd.DataFrame(rows)


def evaluate(
    bench: Bench,
    config: FollowConfig | None = None,
    texts: InstructionSet | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> None:
    """The whole evaluation of a pair, into its workspace; one that was stopped goes on, and several
    processes share it. `say` hears `warnings` before anything is written."""
    following = Following(bench, config or FollowConfig(), texts or load_instructions())
    for sentence in warnings(following.models, following.sides):
        say(sentence)
    following.run()
