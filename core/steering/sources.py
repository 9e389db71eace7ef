"""What a person steers by: a language, two texts, an SAE feature, or a vector on file. Light: no
torch.

A source is only named here; `core.steering.directions` reads it. As text it stands in links, in
records and on the command line.
"""

import re
from dataclasses import dataclass

from core.errors import StitchLensError
from core.steering.keys import Side


@dataclass(frozen=True)
class Language:
    """Texts in a language against English."""

    code: str
    """`fr`, or the corpus label `fra`."""

    def __str__(self) -> str:
        return f"lang:{self.code}"


@dataclass(frozen=True)
class Concept:
    """Two texts that a person wrote, an example a line. No link holds them."""

    positive: str
    negative: str

    def __str__(self) -> str:
        return "concept"


@dataclass(frozen=True)
class ConceptFiles:
    """Two files of text, an example a line."""

    positive: str
    negative: str

    def __str__(self) -> str:
        return f"concept:{self.positive},{self.negative}"


@dataclass(frozen=True)
class Feature:
    """The decoder direction of a feature of A's SAE."""

    sae: str
    index: int

    def __str__(self) -> str:
        return f"feature:{self.sae}/{self.index}"


@dataclass(frozen=True)
class Brought:
    """A vector that was brought to the workspace."""

    name: str

    def __str__(self) -> str:
        return f"vector:{self.name}"


@dataclass(frozen=True)
class VectorFile:
    """A vector on file; `side` and `layer` where the file does not say that it is for them."""

    path: str
    side: Side | None = None
    layer: int | None = None

    def __str__(self) -> str:
        place = "" if self.side is None else f"@{self.side}:{self.layer}"
        return f"file:{self.path}{place}"


Source = Language | Concept | ConceptFiles | Feature | Brought | VectorFile
FOR_LAYER = re.compile(r"(.+)@([ab]):(\d{1,4})")
"""How the name of a file is followed by the side and the layer that it is for."""


def source_from(text: str) -> Source:
    """`lang:fr`, `feature:SAE/INDEX`, `vector:NAME` (one that was brought to the workspace),
    `file:PATH` (`file:PATH@b:13` where the file does not say that it is for B's layer 13) or
    `concept:POSITIVE.txt,NEGATIVE.txt` (files of text).

    Raises StitchLensError that says what is possible.
    """
    kind, _, rest = text.partition(":")
    match kind:
        case "lang":
            return Language(rest)
        case "feature":
            return _feature(rest)
        case "vector":
            return Brought(rest)
        case "file":
            return _vector_file(rest)
        case "concept":
            return _concept_files(rest)
    raise StitchLensError(
        f"source '{text}'", "lang:, feature:, vector:, file: or concept:", "such as lang:fr"
    )


def _feature(text: str) -> Feature:
    sae, _, index = text.rpartition("/")
    if not index.isdecimal():
        raise StitchLensError(f"feature '{text}'", "SAE/INDEX, such as L15-4096/12", "name one")
    return Feature(sae, int(index))


def _vector_file(text: str) -> VectorFile:
    placed = FOR_LAYER.fullmatch(text)
    if placed is None:
        return VectorFile(text)
    return VectorFile(placed[1], "a" if placed[2] == "a" else "b", int(placed[3]))


def _concept_files(text: str) -> ConceptFiles:
    paths = text.split(",")
    if len(paths) != 2:
        raise StitchLensError(f"{len(paths)} files", "POSITIVE.txt,NEGATIVE.txt", "give both")
    return ConceptFiles(*paths)
