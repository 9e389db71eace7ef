"""SAEBench's eight sparse-probing datasets from the Hugging Face hub: its names, sizes, classes and
class rules (4, E).

Karvonen et al. (2025), `sae_bench_utils/dataset_utils.py`. Of a task's 4,000 training and 1,000
test texts one half is of the class. Biographies and reviews are balanced in their second column;
Europarl and code are split after a shuffle.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from core.errors import StitchLensError
from core.probes.dataset import Dataset
from core.text.corpus import Document

TRAIN, TEST = 4_000, 1_000
SEED = 42
CHARACTERS = 1_000
"""Of each text; SAEBench reads 128 tokens."""
SKIPPED, LEAST_CODE = 150, 534
"""Characters of code passed over (licences), and how long a file must be."""
BIOS = "LabHC/bias_in_bios"
REVIEWS = "canrager/amazon_reviews_mcauley_1and5"
CODE, NEWS, EUROPARL = "codeparrot/github-code", "fancyzhx/ag_news", "Helsinki-NLP/europarl"
CLASSES: dict[str, tuple[str, ...]] = {
    f"{BIOS}_class_set1": ("0", "1", "2", "6", "9"),
    f"{BIOS}_class_set2": ("11", "13", "14", "18", "19"),
    f"{BIOS}_class_set3": ("20", "21", "22", "25", "26"),
    REVIEWS: ("1", "2", "3", "5", "6"),
    f"{REVIEWS}_sentiment": ("1.0", "5.0"),
    CODE: ("C", "Python", "HTML", "Java", "PHP"),
    NEWS: ("0", "1", "2", "3"),
    EUROPARL: ("en", "fr", "de", "es", "nl"),
}
LANGUAGE_PAIRS = {
    "en": "en-fr",
    "fr": "fr-it",
    "de": "de-en",
    "es": "es-fr",
    "nl": "nl-pt",
}
Texts = dict[str, list[str]]


def sampled(
    table: pd.DataFrame,
    classes: Iterable[str],
    column: str,
    text: str,
    n: int,
    by: str | None = None,
) -> Texts:
    """`n` texts of each class of `column`, as many of each value of `by` where that is given.
    Raises StitchLensError where there are fewer."""
    out: Texts = {}
    for label in classes:
        rows = table.loc[table[column].astype(str) == label]
        groups = [rows] if by is None else [group for _, group in rows.groupby(by)]
        each = n // max(len(groups), 1)
        if not groups or min(map(len, groups)) < each:
            found = min(map(len, groups), default=0)
            raise StitchLensError(
                f"{found} texts of class {label}", f"{each}", "the dataset on the hub has changed"
            )
        out[label] = [t for group in groups for t in group[text].sample(n=each, random_state=SEED)]
    return out


def shuffled(
    texts: Texts,
    train: int,
    test: int,
) -> tuple[Texts, Texts]:
    """The first `train` texts of each class after a seeded shuffle, and the next `test`. Raises
    StitchLensError where there are fewer."""
    out: tuple[Texts, Texts] = {}, {}
    g = np.random.default_rng(SEED)
    for label, some in texts.items():
        if len(some) < train + test:
            raise StitchLensError(
                f"{len(some)} texts of class {label}", f"{train + test}", "the dataset has changed"
            )
        order = g.permutation(len(some))
        out[0][label] = [some[i] for i in order[:train]]
        out[1][label] = [some[i] for i in order[train : train + test]]
    return out


def _until(
    texts: Iterator[tuple[str, str]],
    classes: tuple[str, ...],
    n: int,
) -> Texts:
    """(class, text) pairs until each class has `n`."""
    out: Texts = {label: [] for label in classes}
    for label, text in texts:
        if label in out and len(out[label]) < n:
            out[label].append(text)
        if all(len(some) >= n for some in out.values()):
            break
    return out


def _read(
    name: str,
    train: int,
    test: int,
) -> tuple[Texts, Texts]:
    from datasets import load_dataset

    classes, most = CLASSES[name], train + test
    if name == EUROPARL:
        found: Texts = {}
        for language, pair in LANGUAGE_PAIRS.items():
            rows: Any = load_dataset(name, pair, split="train", streaming=True)
            found |= _until(
                ((language, row["translation"][language]) for row in rows), (language,), most
            )
        return shuffled(found, train, test)
    if name == CODE:
        rows = load_dataset(
            name,
            split="train",
            streaming=True,
            languages=list(classes),
        )
        files = (
            (row["language"], row["code"][SKIPPED:])
            for row in rows
            if len(row["code"]) > LEAST_CODE
        )
        return shuffled(_until(files, classes, most), train, test)
    place = BIOS if name.startswith(BIOS) else REVIEWS if name.startswith(REVIEWS) else NEWS
    column, text, by = {
        BIOS: ("profession", "hard_text", "gender"),
        REVIEWS: ("category", "text", "rating"),
        NEWS: ("label", "text", None),
    }[place]
    if name.endswith("_sentiment"):
        column, by = "rating", None
    loaded: Any = load_dataset(place)
    one, two = (
        sampled(loaded[split].to_pandas(), classes, column, text, n, by)
        for split, n in (("train", train), ("test", test))
    )
    return one, two


def saebench_datasets(names: Iterable[str] = tuple(CLASSES)) -> list[Dataset]:
    """The eight, or those named. Raises StitchLensError for a name that is none of them, and where
    the hub is out of reach."""
    out = []
    for name in names:
        if name not in CLASSES:
            raise StitchLensError(
                f"no dataset '{name}'", f"one of {', '.join(CLASSES)}", "choose one"
            )
        try:
            parts = _read(name, TRAIN // 2, TEST // 2)
        except StitchLensError:
            raise
        except Exception as e:  # the hub client raises many kinds
            raise StitchLensError(
                f"dataset '{name}' out of reach ({type(e).__name__})",
                "the Hugging Face hub",
                "check the connection, or leave --saebench out for the offline tasks",
            ) from e
        short = name.split("/")[-1]
        train, test = (
            {
                c: [
                    Document(f"{name}/{split}/{c}@{i}", c, t[:CHARACTERS])
                    for i, t in enumerate(texts)
                ]
                for c, texts in part.items()
            }
            for split, part in zip(("train", "test"), parts, strict=True)
        )
        probed = CLASSES[name][:1] if len(CLASSES[name]) == 2 else CLASSES[name]
        out.append(
            Dataset(
                short,
                short.replace("_", " "),
                f"against the other classes of {name}",
                train,
                test,
                probed,
            )
        )
    return out
