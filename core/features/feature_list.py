"""A list of features with notes, as a value; `core.features.lists` stores them.

What changes one gives another; what cannot be raises StitchLensError. As CSV each feature comes
with what `features find` says of it.
"""

import json
import unicodedata
from typing import Any, Literal

import pandas as pd
from pydantic import Field, field_validator, model_validator

from core.config import Frozen, check
from core.errors import StitchLensError
from core.features import search
from core.workspace.store import Workspace, has

FORMAT = "stitchlens-list-1"
MOST = 500
"""Features of a list."""
LONGEST_NAME = 80
"""Characters."""
LONGEST_NOTE = 500
"""Characters."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of a cell that a spreadsheet would compute."""
COLUMNS = ("sae", "feature", "note", "label", "agreement", "correlation", "twin")
"""Of a list as a table."""


def _clean(text: str, also: str = "") -> str:
    """Raises ValueError for a control character but those of `also`."""
    for letter in text:
        if unicodedata.category(letter) == "Cc" and letter not in also:
            raise ValueError(f"holds U+{ord(letter):04X}, which is no text")
    return text


class Entry(Frozen):
    """One feature of a list."""

    sae: str = Field(min_length=1, max_length=200)
    feature: int = Field(ge=0, lt=10**9, strict=True)
    note: str = Field(default="", max_length=LONGEST_NOTE)

    @field_validator("sae")
    @classmethod
    def _sae(cls, sae: str) -> str:
        return _clean(sae)

    @field_validator("note")
    @classmethod
    def _note(cls, note: str) -> str:
        return _clean(note.strip(), "\n")

    @property
    def key(self) -> tuple[str, int]:
        return self.sae, self.feature


class FeatureList(Frozen):
    """A list as a value; what changes it gives another one."""

    format: Literal["stitchlens-list-1"] = FORMAT
    pair: str = Field(max_length=64)
    name: str = Field(min_length=1, max_length=LONGEST_NAME)
    entries: tuple[Entry, ...] = Field(default=(), max_length=MOST)

    @field_validator("name", mode="before")
    @classmethod
    def _name(cls, name: Any) -> Any:
        return _clean(" ".join(name.split())) if isinstance(name, str) else name

    @model_validator(mode="after")
    def _once(self) -> "FeatureList":
        keys = [entry.key for entry in self.entries]
        if len(set(keys)) < len(keys):
            raise ValueError("a feature stands in it twice")
        return self

    def note_of(self, sae: str, feature: int) -> str | None:
        """The note of a feature; None where it is not in the list."""
        notes = {entry.key: entry.note for entry in self.entries}
        return notes.get((sae, feature))

    def added(self, sae: str, feature: int, note: str = "") -> "FeatureList":
        """With one feature more, at the end. One that is in it stays where it is, with its note
        unless there is a new one."""
        if self.note_of(sae, feature) is not None:
            return self.annotated(sae, feature, note) if note else self
        if len(self.entries) == MOST:
            raise StitchLensError(
                f"{MOST + 1} features for the list '{self.name}'",
                f"at most {MOST}",
                "start another list",
            )

        entry = checked_entry(sae, feature, note)
        return self._with(entries=(*self.entries, entry))

    def removed(self, sae: str, feature: int) -> "FeatureList":
        """Without a feature, whether it was in it or not."""
        rest = tuple(entry for entry in self.entries if entry.key != (sae, feature))
        return self._with(entries=rest)

    def annotated(self, sae: str, feature: int, note: str) -> "FeatureList":
        """With another note at a feature, or none."""
        if self.note_of(sae, feature) is None:
            raise StitchLensError(
                f"no feature {feature} of SAE {sae} in the list '{self.name}'",
                "one that is in it",
                "add it first",
            )
        new = checked_entry(sae, feature, note)
        entries = tuple(new if entry.key == new.key else entry for entry in self.entries)
        return self._with(entries=entries)

    def renamed(self, name: str) -> "FeatureList":
        return self._with(name=name)

    def _with(self, **values: Any) -> "FeatureList":
        fields = {key: getattr(self, key) for key in ("pair", "name", "entries")}
        return check(FeatureList, "shorten it", **(fields | values))


def checked_entry(sae: str, feature: int, note: str) -> Entry:
    """An entry from what a person typed. Raises StitchLensError for what does not fit."""
    return check(
        Entry,
        "write another note",
        sae=sae,
        feature=feature,
        note=note,
    )


def table(ws: Workspace, listed: FeatureList) -> pd.DataFrame:
    """COLUMNS, a row a feature in the list's order: its note, and what `features find` says of it;
    empty where its SAE is not here any more."""
    known: dict[tuple[str, int], dict[str, Any]] = {}
    for sae in dict.fromkeys(entry.sae for entry in listed.entries):
        if not has(ws, f"features/{sae}"):
            continue
        width = len(ws.table(f"features/{sae}"))
        wanted = [entry.feature for entry in listed.entries if entry.sae == sae]
        rows = search.results(ws, sae, [feature for feature in wanted if feature < width])
        known |= {(sae, row["feature"]): row for row in rows}

    rows = [known.get(entry.key, {}) | entry.model_dump() for entry in listed.entries]
    columns = pd.DataFrame(rows, columns=list(COLUMNS))
    return columns.astype({"twin": "Int64"})


def as_csv(ws: Workspace, listed: FeatureList) -> str:
    """`table` as CSV for a spreadsheet: text that one would compute has ' before it."""
    columns = table(ws, listed)
    for column in ("sae", "note", "label"):
        columns[column] = columns[column].map(_inert, na_action="ignore")
    return columns.to_csv(index=False)


def as_json(listed: FeatureList) -> str:
    """The list as it is stored."""
    return json.dumps(listed.model_dump(mode="json"), indent=1, ensure_ascii=False)


def _inert(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text
