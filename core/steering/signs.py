"""What to look for in a text that a feature steers: the tokens that it raises, what its label
names, and the language or the form that these have.

A feature shows where a text bears its signs. That is another question than where it fires: a
feature that fires at one word may raise the next one.
"""

import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pandas as pd

from core.features import alike
from core.text.languages import LANGUAGES, detect
from core.workspace.store import Workspace

PIECES = ("token", "word piece", "word so far")
"""Families of labels whose values are words that a text may say."""
MOST = 0.5
"""Share of a feature's tokens that have a form, from which on it is the feature's."""
FEW = 3
"""Languages that a label names, at most, for a text in one of them to show the feature."""
CODES = {name: code for code, name in LANGUAGES.values()}
BRACKETS = "()[]{}<>=_/\\#*|;$&@^~`+"
"""Signs of which code has many and other text few."""


@dataclass(frozen=True)
class Signs:
    """Of one feature in one model."""

    words: frozenset[str] = frozenset()
    """Tokens and words with a letter or a number, in lower case, without space around them."""
    languages: frozenset[str] = frozenset()
    """As langdetect calls them."""
    forms: frozenset[str] = frozenset()
    """As `form` calls them."""

    @property
    def whole(self) -> bool:
        """Whether they mark a whole text, which is seen at once: a language, or a script."""
        return bool(self.languages or self.forms - set(COMMON))

    def shown(
        self,
        text: str,
        tokens: Sequence[str],
    ) -> float:
        """How much of a text bears them, 0 to 1: the share of its tokens that are among the words,
        of its characters that have the forms, or, where it is in a language, all of it; what is
        most."""
        words = [bare(token) for token in tokens]
        forms = [form(character) for character in text if character != " "]
        shares = [share(self.words, [word for word in words if word]), share(self.forms, forms)]
        if self.languages and text.strip():
            shares.append(float(detect(text)[0] in self.languages))
        return max(shares)


def share(
    wanted: Collection[str],
    there: Sequence[str],
) -> float:
    """Of these, how much is wanted."""
    return sum(one in wanted for one in there) / max(len(there), 1)


def bare(token: str) -> str:
    """A token in lower case, without space around it."""
    return token.strip().casefold()


def form(text: str) -> str:
    """What the characters of a text are, most of them: a script other than Latin, 'number', 'line
    break' or 'code'; '' for what any text has."""
    forms = Counter(_form(character) for character in text if character != " ")
    return forms.most_common(1)[0][0] if forms else ""


def _form(character: str) -> str:
    if character in "\r\n":
        return "line break"
    if character in BRACKETS:
        return "code"
    if character.isdecimal():
        return "number"
    if not character.isalpha() or character.isascii():
        return ""
    script = unicodedata.name(character, "").partition(" ")[0].casefold()
    return "" if script in ("latin", "modifier") else script


COMMON = ("number", "line break", "code")
"""Forms that are no script: any text may have some."""


def signs(
    ws: Workspace,
    sae: str,
    features: Sequence[int],
    side: str,
) -> dict[int, Signs]:
    """By feature, what to look for in the texts of one model."""
    raised = _raised(ws, sae, features, side)
    labels = alike.labels(ws, sae).set_index("feature")
    return {
        feature: of_feature(raised.get(feature, []), labels.loc[feature]) for feature in features
    }


def of_feature(
    raised: Sequence[str],
    label: pd.Series,
) -> Signs:
    """What to look for, by the tokens that a feature raises and a row of `alike.labels`."""
    named = _named(label)
    words = [*raised, *(value for family, value in named if family in PIECES)]
    languages = {value for family, value in named if family == "language"}
    if len(languages) > FEW or "English" in languages:
        languages = set()
    return Signs(
        frozenset(bare(word) for word in words if any(map(str.isalnum, word))),
        frozenset(CODES[name] for name in languages if name in CODES),
        frozenset(_forms(words, named)),
    )


def _raised(
    ws: Workspace,
    sae: str,
    features: Sequence[int],
    side: str,
) -> dict[int, list[str]]:
    table = ws.table(f"logits/{sae}", side=side)
    table = table.loc[(table["rank"] >= 0) & table.feature.isin(features)]
    tokens: dict[int, list[str]] = {}
    for feature, token in zip(table.feature, table.token, strict=True):
        tokens.setdefault(int(feature), []).append(token)
    return tokens


def _named(label: pd.Series) -> list[tuple[str, str]]:
    """(family, value) of all that a label names."""
    return [
        (str(label[f"{place}_family"]), str(value))
        for place in ("first", "second")
        for value in label[f"{place}_values"]
    ]


def _forms(
    words: Sequence[str],
    named: Sequence[tuple[str, str]],
) -> set[str]:
    """Forms of most of the words, and those that the label names."""
    counted = Counter(form(word) for word in words)
    forms = {one for one, n in counted.items() if one and n >= MOST * len(words)}
    forms |= {value.casefold() for family, value in named if family == "script"}
    if ("kind of text", "code") in named:
        forms.add("code")
    return forms
