"""An explainer: a model that is shown where a feature fires says why, and is scored by detection
on other passages, of A and, with the carried SAE, of B."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from core.errors import StitchLensError, printable
from core.features import alike, delphi, explained
from core.features import tables as feature_tables
from core.features.chat import AGAIN, Answers, Asker, kept_answers
from core.features.delphi import Messages
from core.features.passages import SCORED, Contexts, Pool, contexts, sample
from core.models.pairs import SIDES, Side
from core.progress import Progress
from core.workspace import demonstration
from core.workspace.store import Workspace

AT_ONCE = 5
"""Passages that a reader judges in one question, as in delphi."""
TOKENS = {"explanation": 300, "detection": 60}
"""Of an answer, at most."""
SENSELESS = 2
"""Answers to one question that make no sense, before it is left out."""
IN_A_ROW = 5
"""Features without a usable answer, before the run ends."""
GUESS = 80
"""Letters of an explanation that is not known yet, where characters are counted."""
TYPE = "delphi detection"


class Plan(NamedTuple):
    """What an explainer would be asked: `features`, how many `requests` with how many `characters`
    in all (about: explanations are not known yet), and the `first` question."""

    features: list[int]
    requests: int
    characters: int
    first: Messages


class Material(NamedTuple):
    """Of a feature, its contexts by model."""

    feature: int
    sides: dict[Side, Contexts]


def features_from(ws: Workspace, sae: str, chosen: str) -> list[int]:
    """How many, those first that a page shows first, or a list such as 7,12 or 7, for one. Raises
    StitchLensError."""
    words = [word.strip() for word in chosen.split(",")]
    numbers = [int(word) for word in words if word.isascii() and word.isdigit()]
    if len(numbers) != len([word for word in words if word]) or not numbers:
        raise StitchLensError(
            f"--features {chosen}",
            "how many, such as 20, or a list, such as 7,12 (one alone: 7,)",
            "choose features by their numbers",
        )
    width = len(ws.table(f"features/{sae}"))
    if "," not in chosen:
        return alike.usual(ws, sae)[: numbers[0]]

    beyond = [number for number in numbers if number >= width]
    if beyond:
        raise StitchLensError(
            f"feature {beyond[0]}", f"0 to {width - 1} of SAE {sae}", "choose one of these"
        )
    return list(dict.fromkeys(numbers))


def material(
    ws: Workspace,
    sae: str,
    features: Sequence[int],
    corpus: str,
) -> list[Material]:
    """The contexts of features; one that has none is left out. Raises StitchLensError where none
    has any."""
    ws.entry(f"examples_a/{sae}")
    texts = feature_tables.texts(corpus)
    every = []
    for feature in features:
        by_side: dict[Side, Contexts] = {}
        for side in SIDES:
            of_side = contexts(ws, sae, side, feature, texts)
            if of_side is not None:
                by_side[side] = of_side
        if by_side["a"].shown:
            every.append(Material(feature, by_side))
    if not every:
        raise StitchLensError(
            "features without a context in A",
            "one that fires in the corpus",
            "choose others with --features",
        )
    return every


def plan(every: Sequence[Material]) -> Plan:
    """What would be asked of these features."""
    questions = [asked for one in every for asked in _questions(one)]
    features = [one.feature for one in every]
    return Plan(features, len(questions), sum(map(_letters, questions)), questions[0])


def _questions(one: Material) -> list[Messages]:
    """What would be asked about a feature, with passages that are about as long in the place of
    those that are not drawn yet."""
    questions = [delphi.question(one.sides["a"].shown)]
    for of_side in one.sides.values():
        texts = [passage.text for passage in of_side.scored[:SCORED]]
        both = texts + texts  # as many again in which it does not fire
        for first in range(0, len(both), AT_ONCE):
            part = both[first : first + AT_ONCE]
            questions.append(delphi.detection("x" * GUESS, part))
    return questions


def _letters(messages: Messages) -> int:
    return sum(len(message["content"]) for message in messages)


class Senseless(Exception):
    """Answers that hold no explanation, or no list of zeros and ones."""


T = TypeVar("T")


def understood(
    answers: Answers,
    messages: Messages,
    tokens: int,
    read: Callable[[str], T | None],
) -> T:
    """What `read` makes of an answer; only such an answer is kept, others are asked for again.
    Raises Senseless where none makes sense, and StitchLensError where nobody answers."""
    answer = ""
    for _ in range(SENSELESS):
        answer, key = answers.ask(messages, tokens)
        value = read(answer)
        if value is not None:
            answers.keep(key, answer)
            answers.understood()
            return value
    raise Senseless(answer)


def explanation_of(answers: Answers, shown: Contexts) -> str:
    """Why the feature fires, as the explainer says it. Raises Senseless."""
    messages = delphi.question(shown.shown)
    tokens = TOKENS["explanation"]
    return understood(answers, messages, tokens, delphi.explanation_in)


def votes(answers: Answers, text: str, passages: Sequence[str]) -> NDArray[np.bool_]:
    """In which passages a feature fires, as a reader says who knows its explanation alone. Raises
    Senseless."""
    given: list[int] = []
    for first in range(0, len(passages), AT_ONCE):
        part = passages[first : first + AT_ONCE]
        messages = delphi.detection(text, part)
        read = partial(delphi.votes_in, many=len(part))
        given += understood(answers, messages, TOKENS["detection"], read)
    return np.array(given, dtype=bool)


def score(
    answers: Answers,
    one: Material,
    side: Side,
    text: str,
    pool: Pool,
) -> tuple[float, int]:
    """(F1, how many passages) of an explanation in a model; NaN and 0 where the feature fires too
    rarely there, or too often, or the reader gives no list. What the explainer was shown scores
    nothing."""
    seen = {passage.document for passage in one.sides["a"].shown}
    drawn = sample(one.sides[side], pool, one.feature, seen)
    if drawn is None:
        return np.nan, 0
    try:
        guesses = votes(answers, text, [passage.text for passage in drawn.passages])
    except Senseless:
        return np.nan, 0
    return delphi.f1(drawn.truth, guesses), len(guesses)


class Outcome(NamedTuple):
    """What came of it: `table` of explanations, see `core.features.explained.of_sae`, and the
    features without a usable answer."""

    table: pd.DataFrame
    without: list[int]


def explain(
    ws: Workspace,
    sae: str,
    every: Sequence[Material],
    pools: Mapping[Side, Pool],
    asker: Asker,
) -> Outcome:
    """Ask for an explanation of each feature, score it in the models of `pools`, and keep it. What
    was explained when it ends early is kept as well, and no question is asked twice.

    Raises StitchLensError in a demonstration, where nobody answers, and where answers make no sense
    for IN_A_ROW features in a row, or for any.
    """
    demonstration.refuse("an explainer")
    rows: list[dict[str, Any]] = []
    without: list[int] = []
    in_a_row = 0
    about = {"source": asker.title, "type": TYPE, "origin": explained.EXPLAINED}
    try:
        with (
            kept_answers(asker, ws.pair) as answers,
            Progress("explaining", plan(every).requests, "answers") as bar,
        ):
            answers.understood = lambda: bar.advance(1)
            total = 0
            for one in every:
                total += len(_questions(one))
                try:
                    row = _row(answers, one, pools)
                    rows.append(about | row)
                    in_a_row = 0
                except Senseless as e:
                    without.append(one.feature)
                    in_a_row += 1
                    if in_a_row >= IN_A_ROW or in_a_row == len(every):
                        raise _no_use(in_a_row, str(e)) from None
                bar.advance(total - bar.done)  # what was not worth asking
    finally:
        table = explained.scored(rows)
        if rows:
            explained.keep(ws, sae, table, by_feature=True)
    return Outcome(table, without)


def _row(answers: Answers, one: Material, pools: Mapping[Side, Pool]) -> dict[str, Any]:
    text = explanation_of(answers, one.sides["a"])
    row: dict[str, Any] = {"feature": one.feature, "text": text}
    for side, pool in pools.items():
        if side in one.sides:
            row[f"f1_{side}"], row[f"n_{side}"] = score(answers, one, side, text, pool)
    return row


def _no_use(features: int, answer: str) -> StitchLensError:
    last = printable(answer, 60)
    return StitchLensError(
        f"{features} features in a row without a usable answer (the last: '{last}')",
        f"a line that begins with {delphi.MARKER}",
        f"ask a larger model; {AGAIN}",
    )
