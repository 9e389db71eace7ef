"""How an explainer is asked, in delphi's format (EleutherAI/delphi, Paulo et al. 2024): passages
whose tokens stand between << and >> where a feature fires, with activations from 0 to 9; and to
score its answer by detection, plain passages, of which a reader who knows the explanation alone
says 1 or 0.
"""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import printable

Messages = list[dict[str, str]]
"""As chat addresses take them: `role` and `content`."""

THRESHOLD = 0.3
"""Share of the largest activation above which a token is marked."""
LEVELS = 9
LONGEST = 500
"""Letters of an explanation."""
MARKER = "[EXPLANATION]:"
SYSTEM = f"""You study what makes one feature of a language model fire.
You are given passages of text. Tokens at which the feature fires stand between << and >>; \
neighbours that all fire share one pair of marks. Below each passage these tokens are listed with \
how strongly they fire, from 1 to {LEVELS}.
Say in one short sentence what the marked tokens, or what stands around them, have in common. Be \
specific, give no list of alternatives, do not mention the marks. End with one line that begins \
with {MARKER}"""
SHOWN = (
    (
        'Example 1: the tide was <<high>> at noon\nActivations: ("high", 8)\n'
        'Example 2: a <<tall>> ship and a <<wide>> bay\nActivations: (" tall", 9), (" wide", 6)',
        f"{MARKER} Adjectives of size.",
    ),
    (
        'Example 1: He paid $<<40>> for it\nActivations: ("40", 7)\n'
        'Example 2: It costs €<<15>>.<<99>>\nActivations: ("15", 9), ("99", 5)',
        f"{MARKER} Digits of an amount of money.",
    ),
)
"""Two questions with their answers, which come before ours."""
READER = """You are given an explanation of what makes one feature of a language model fire, and \
numbered passages of text. For each passage decide whether the feature fires anywhere in it.
Answer with a list of as many numbers as there are passages, in their order: 1 where it fires, 0 \
where it does not, such as [1, 0, 0, 1]. Write nothing else."""
READ = (
    "Explanation: Names of months.\n\n"
    "Example 0: back in March of that year\nExample 1: the colour of the roof\n"
    "Example 2: from June to\n\n3 passages.",
    "[1, 0, 1]",
)


class Passage(NamedTuple):
    """Some tokens of a document in a row, and how strongly a feature fires at each."""

    document: str
    tokens: tuple[str, ...]
    activations: tuple[float, ...]

    @property
    def text(self) -> str:
        return "".join(self.tokens)


def marked(passage: Passage) -> str:
    """Its text with << and >> around the tokens at which the feature fires."""
    bar = THRESHOLD * max(passage.activations, default=0.0)
    parts: list[str] = []
    inside = False
    for token, activation in zip(passage.tokens, passage.activations, strict=True):
        fires = activation > bar
        if fires != inside:
            parts.append("<<" if fires else ">>")
        parts.append(token)
        inside = fires
    return "".join(parts) + (">>" if inside else "")


def levels(passage: Passage, largest: float) -> str:
    """Its marked tokens with their activations from 1 to LEVELS, of a feature's `largest`."""
    bar = THRESHOLD * max(passage.activations, default=0.0)
    tokens = zip(passage.tokens, passage.activations, strict=True)
    listed = []
    for token, activation in tokens:
        if activation > bar:
            level = int(np.ceil(LEVELS * activation / largest))
            listed.append(f"({json.dumps(token, ensure_ascii=False)}, {level})")
    return ", ".join(listed)


def question(passages: Sequence[Passage]) -> Messages:
    """What the explainer is asked of a feature that fires in `passages`."""
    largest = max(max(passage.activations) for passage in passages)
    lines = []
    for number, passage in enumerate(passages, 1):
        lines.append(f"Example {number}: {marked(passage)}")
        lines.append(f"Activations: {levels(passage, largest)}")
    return _chat(SYSTEM, SHOWN, "\n".join(lines))


def detection(explanation: str, texts: Sequence[str]) -> Messages:
    """What the reader is asked of an explanation and some texts."""
    numbered = [f"Example {number}: {text}" for number, text in enumerate(texts)]
    counted = f"{len(texts)} passages."
    asked = f"Explanation: {explanation}\n\n" + "\n".join(numbered) + f"\n\n{counted}"
    return _chat(READER, (READ,), asked)


def _chat(system: str, examples: Sequence[tuple[str, str]], asked: str) -> Messages:
    messages = [{"role": "system", "content": system}]
    for user, assistant in examples:
        messages.append({"role": "user", "content": user})
        messages.append({"role": "assistant", "content": assistant})
    return [*messages, {"role": "user", "content": asked}]


def explanation_in(answer: str) -> str | None:
    """The explanation in an answer: what follows the last MARKER, or the whole of an answer of one
    line; None where there is none."""
    _, marker, tail = answer.rpartition(MARKER)
    if not marker and "\n" in answer.strip():
        return None
    lines = tail.strip().splitlines()
    text = printable(lines[0].strip(" *"), LONGEST) if lines else ""
    return text or None


def votes_in(answer: str, many: int) -> list[int] | None:
    """The list of `many` zeros and ones in an answer; None where there is none."""
    for listed in re.findall(r"\[[\s\d,]*\]", answer):
        digits = re.findall(r"\d+", listed)
        if len(digits) == many and set(digits) <= {"0", "1"}:
            return [int(digit) for digit in digits]
    return None


def f1(truth: NDArray[np.bool_], votes: NDArray[np.bool_]) -> float:
    """Harmonic mean of precision and recall; a coin gets 0.5 of as many passages in which the
    feature fires as others, and who always says yes 0.67."""
    both = truth.sum() + votes.sum()
    return float(2 * (truth & votes).sum() / both) if both else 0.0
