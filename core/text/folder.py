"""A folder or file of your own as text: which files are read, and why the others are not."""

import os
import re
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

from core.errors import StitchLensError, printable
from core.text.columns import NoColumn, NoRows, listed
from core.text.packing import form, whole_text
from core.text.reading import clean, read_text
from core.text.rows import FORMS, STATE, read_rows, saved_files

STREAM_CHARACTERS = 20_000_000
"""How much is read of data in rows, local or streamed from the hub."""


TEXTS = (".txt", ".md")
"""Endings of files of a folder that are read as they stand; a file named by itself may have any."""
ABOUT = re.compile(
    r"(readme|licen[cs]e|copying|copyright|notice|citation|changelog|contributing|code_of_conduct|authors|requirements|"
    r"data(set)?_?card|datasheet)([._].*)?"
)
"""Names of files, without their endings, that are about the data that lie beside them."""
CLOSED = (
    ".zip",
    ".tar",
    ".tgz",
    ".7z",
    ".rar",
    ".pkl",
    ".pickle",
    ".npy",
    ".npz",
    ".h5",
    ".hdf5",
    ".xlsx",
    ".xls",
    ".ods",
    ".orc",
    ".avro",
    ".db",
    ".sqlite",
    ".bin",
    ".pt",
)
"""Endings of data that are not opened here; what lies beside them may be about them."""
MOST_LISTED = 3
"""Files that a sentence names, of each kind."""


@dataclass(frozen=True)
class Reading:
    """Which files of a folder were read, and which were passed over."""

    files: tuple[tuple[str, str, int], ...]
    """(name, what of it, characters)."""
    passed: tuple[tuple[str, str], ...]
    """(name, why)."""

    def __str__(self) -> str:
        """A sentence without its end."""
        out = []
        if self.files:
            names = [f"{name} ({what}{n:,} characters)" for name, what, n in self.files]
            count = "1 file" if len(names) == 1 else f"{len(names):,} files"
            total = f"{sum(n for _, _, n in self.files):,} characters"
            out.append(
                f"read {count} with {total}: {_some(names)}"
                if len(names) > 1
                else f"read {names[0]}"
            )
        reasons: dict[str, list[str]] = {}
        for name, why in self.passed:
            reasons.setdefault(why, []).append(name)
        if reasons:
            out.append(
                "passed over "
                + ", ".join(f"{_some(names)} ({why})" for why, names in reasons.items())
            )
        return "; ".join(out)


def _some(names: list[str]) -> str:
    more = len(names) - MOST_LISTED
    return ", ".join(names[:MOST_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def spelled(path: Path) -> str:
    """A path as characters; bytes of it that are not UTF-8 as their numbers, so that no two paths
    are one."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class LocalText:
    """The sources of a folder or file; what was read and what was passed over is known when all are
    taken."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[tuple[str, str, int]] = []
        self.passed: list[tuple[str, str]] = []

    @property
    def reading(self) -> Reading:
        return Reading(tuple(self.files), tuple(self.passed))

    def sources(self) -> Iterator[tuple[str, str, str]]:
        """(source, label, text). Raises StitchLensError for a file of text or data that cannot be
        read."""
        texts, tables, has_data = self._sorted()
        counted = Counter(path.name for path in tables)
        left = STREAM_CHARACTERS

        for path in sorted([*texts, *tables]):
            name = self._name(path)
            if form(path)[0] in FORMS:
                if left <= 0:
                    self.passed.append(
                        (name, f"after the first {STREAM_CHARACTERS:,} characters of data")
                    )
                    continue
                source = spelled(Path(path.name)) if counted[path.name] == 1 else name
                left -= yield from self._rows(path, source, left)
            elif has_data and ABOUT.fullmatch(re.sub(r"[\s-]+", "_", path.stem.casefold())):
                self.passed.append((name, "about the data"))
            else:
                text = clean(whole_text(path, name) if form(path)[1] else read_text(path))
                self.files.append((name, "", len(text)))
                yield spelled(path.relative_to(self.root.parent)), spelled(Path(path.stem)), text

    def _rows(
        self,
        path: Path,
        source: str,
        most: int,
    ) -> Generator[tuple[str, str, str], None, int]:
        """Up to `most` characters of one column of a file; returns how many they were."""
        name = self._name(path)
        rows = read_rows(path, name)
        characters, whole = 0, True
        for number, text in rows.texts:
            yield f"{source}:{number}", _label(path), text
            characters += len(text)
            if characters >= most:
                whole = False
                break
        others = f", not {listed(rows.unused)}" if rows.unused else ""
        part = "" if whole else "the beginning, "
        self.files.append((name, f"column {rows.column}{others}; {part}", characters))
        return characters

    def _sorted(self) -> tuple[list[Path], list[Path], bool]:
        """(files of text, files of rows, whether there are data beside the text); notes the files
        that are neither."""
        if self.root.is_file():
            is_table = form(self.root)[0] in FORMS
            return ([], [self.root], True) if is_table else ([self.root], [], False)

        texts, tables, has_data = list[Path](), list[Path](), False
        for path in sorted(self.root.rglob("*")):
            name, (ending, packing) = self._name(path), form(path)
            if path.is_dir():
                if path.is_symlink():
                    self.passed.append((name, "a link to a folder"))
            elif any(
                part.startswith(".") or part == "__MACOSX"
                for part in path.relative_to(self.root).parts
            ):
                self.passed.append((name, "hidden"))
            elif not path.is_file():
                self.passed.append((name, "no file, or a link that leads nowhere"))
            elif ending in TEXTS:
                texts.append(path)
            elif ending in FORMS:
                why = self._why_not(path)
                has_data |= why is None or why[0]
                if why is None:
                    tables.append(path)
                else:
                    self.passed.append((name, why[1]))
            else:
                has_data |= bool(packing) or ending in CLOSED
                self.passed.append((name, "neither text nor a table"))
        return texts, tables, has_data

    def _why_not(self, path: Path) -> tuple[bool, str] | None:
        """(is it data?, why it is not read), or None for a table that has a text."""
        name = self._name(path)
        if form(path)[0] == ".arrow":
            saved = saved_files(path.parent)
            if path.name.startswith("cache-") if saved is None else path.name not in saved:
                return True, "a cache of the data"
        elif path.name in (STATE, "dataset_info.json", "dataset_infos.json", "dataset_dict.json"):
            return False, "about the data"
        try:
            read_rows(path, name)
        except NoRows:
            return False, "JSON that is no table"
        except NoColumn as e:
            return True, e.found.replace(f" in {printable(name)}", "")
        except StitchLensError:
            if form(path)[0] != ".json":  # of settings, with comments in them, as often as of data
                raise
            return True, "broken JSON"
        return None

    def _name(self, path: Path) -> str:
        return spelled(path.relative_to(self.root if path != self.root else self.root.parent))


def _label(path: Path) -> str:
    """`train` of train-00000-of-00003.parquet, `rows` of rows.jsonl.gz; of a saved data set its
    folder's name."""
    stem = re.sub(r"-\d+-of-\d+$", "", spelled(Path(path.name)).split(".")[0])
    return spelled(Path(path.parent.name)) if stem == "data" and form(path)[0] == ".arrow" else stem
