"""What is probed for: splits that do not meet, balanced tasks, templates that differ in one thing,
and bad files."""

import re
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.errors import StitchLensError
from core.probes import saebench
from core.probes.dataset import one_against_rest
from core.probes.labelled import (
    LEAST,
    LONGEST,
    MOST_ROWS,
    labelled,
    read_csv,
    read_labels,
    two_lists,
)
from core.probes.tasks import class_title, corpus_datasets, offline_datasets
from core.probes.templates import template_datasets
from core.text.corpus import Corpus, Document, split_of


def test_there_are_enough_and_they_are_split_by_document(corpus: Corpus) -> None:
    datasets = offline_datasets(corpus)
    assert len(datasets) >= 8
    assert sum(len(d.probed) for d in datasets) >= 20
    for d in datasets:
        train, test = ({x.id for some in part.values() for x in some} for part in (d.train, d.test))
        assert train and test and not train & test, d.name
        assert set(d.probed) <= set(d.train) == set(d.test)
    for d in corpus_datasets(corpus):
        for split, part in (("fit", d.train), ("held-out", d.test)):
            assert all(split_of(x) == split for some in part.values() for x in some), d.name
    languages = next(d for d in datasets if d.name == "language")
    assert {x.label for x in languages.train["fra"]} == {"fra"}
    code = next(d for d in datasets if d.name == "code")
    assert "coding/math" not in {x.label for x in code.train["code"]}


def test_a_task_is_balanced_over_the_other_classes() -> None:
    classes = {
        c: [Document(f"{c}@{i}", c, c) for i in range(n)]
        for c, n in (("a", 30), ("b", 90), ("c", 90))
    }
    documents, y = one_against_rest(classes, "a")
    assert len(y) == 60 and y.sum() == 30
    labels = np.array([d.label for d in documents])
    assert (
        set(labels[y == 1]) == {"a"}
        and np.sum(labels[y == 0] == "b") == np.sum(labels[y == 0] == "c") == 15
    )
    again, _ = one_against_rest(classes, "a")
    assert [d.id for d in again] == [d.id for d in documents]
    few, y = one_against_rest(classes, "b")
    assert len(y) == 150 - 150 % 2 or y.sum() * 2 == len(y)
    assert y.sum() == sum(d.label != "b" for d in few)


def test_templates_keep_their_words_apart() -> None:
    for d in template_datasets():
        texts = {
            part: " ".join(x.text.lower() for some in split.values() for x in some)
            for part, split in (("train", d.train), ("test", d.test))
        }
        stems = {
            part: {w.removesuffix("s").removesuffix("ed") for w in re.findall(r"[a-z]{5,}", t)}
            for part, t in texts.items()
        }
        # what is in both are the words of the templates themselves
        assert len(stems["train"] & stems["test"]) < 12, (d.name, stems["train"] & stems["test"])
        assert all("?" not in x.text for some in d.train.values() for x in some)
        assert [len(some) >= 100 for some in d.test.values()] == [True, True], d.name


def test_tense_and_number_differ_in_one_ending() -> None:
    tense, number = (
        next(d for d in template_datasets() if d.name == name) for name in ("tense", "number")
    )
    assert all(re.search(r"(ed)\b", d.text) for d in tense.train["past"])
    assert not any(
        re.search(r"\b\w+[^e]ed\b", d.text.replace("red ", "")) for d in tense.train["present"]
    )
    plural = [d.text.split() for d in number.train["plural"]]
    assert all(any(w.endswith("s") for w in words[1:3]) for words in plural)
    assert (
        class_title("fra") == "French"
        and class_title("c#") == "C#"
        and class_title("past") == "Past"
    )


def test_a_small_corpus_still_has_the_templates(english: Corpus) -> None:
    assert [d.name for d in offline_datasets(english)] == [
        "question",
        "tense",
        "number",
        "sentiment",
    ]


GOOD = [(f"text {i}", "yes" if i % 2 else "no") for i in range(20)]


def test_labels_of_ones_own() -> None:
    found = labelled(GOOD)
    assert (
        found.positive == "yes"
        and found.y.tolist() == [i % 2 for i in range(20)]
        and found.left_out == 0
    )
    assert labelled(GOOD, "no").y.sum() == 10
    three = [*GOOD, *[("more", "maybe")] * 6]
    assert labelled(three, "maybe").y.sum() == 6
    holes = labelled([*GOOD, ("", "yes"), ("   ", "no"), ("text", "")])
    assert holes.left_out == 3 and len(holes.texts) == 20
    assert len(labelled([*GOOD, ("x" * 10_000, "yes")]).texts[-1]) == LONGEST


@pytest.mark.parametrize(
    ("rows", "positive", "says"),
    [
        ([(t, "yes") for t, _ in GOOD], None, "one label, 'yes'"),
        ([], None, "no row with both"),
        ([("", "yes"), ("", "no")] * 10, None, "no row with both"),
        (GOOD[:3], None, "3 texts with 1 on one side"),
        ([*GOOD, *[("more", "maybe")] * 6], None, "3 labels"),
        (GOOD, "perhaps", "no label 'perhaps'"),
    ],
)
def test_labels_that_will_not_do(
    rows: list[tuple[str, str]], positive: str | None, says: str
) -> None:
    with pytest.raises(StitchLensError, match=says) as refused:
        labelled(rows, positive)
    assert "\n" not in str(refused.value)


def as_csv(rows: list[tuple[str, str]]) -> bytes:
    return ("text,label\n" + "".join(f'"{t}",{label}\n' for t, label in rows)).encode()


def test_a_csv_is_read() -> None:
    assert read_csv(as_csv(GOOD)) == GOOD
    assert read_csv(b'\xef\xbb\xbfid, Label ,TEXT\r\n1,yes,"two\nlines, ""quoted"""\r\n') == [
        ('two\nlines, "quoted"', "yes")
    ]
    assert read_csv(b"text,label\nalone\n\nx,y\n") == [("alone", ""), ("x", "y")]
    assert (
        labelled(
            read_csv(pd.DataFrame(GOOD, columns=["text", "label"]).to_csv(index=False).encode())
        ).y.sum()
        == 10
    )


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_csv_is_read_however_it_was_saved(delimiter: str, encoding: str, end: str) -> None:
    odd = ('two\nlines, "quoted"; all\tsigns', "yes")
    table = pd.DataFrame([odd, *GOOD], columns=["text", "label"])
    table.insert(1, "id", range(len(table)))
    given = read_csv(table.to_csv(index=False, sep=delimiter).replace("\n", end).encode(encoding))
    assert given == [odd, *GOOD]
    assert given.unused == ("id",) and labelled(given).unused == ("id",)


def test_a_long_text_is_cut_and_blank_cells_are_no_columns() -> None:
    ((text, label),) = read_csv(b'text,label,,\n"' + b"x" * 200_000 + b'",yes,,\n')
    assert len(text) == 200_000 and label == "yes"
    assert read_csv(b",text,label\n0,a,b\n").unused == ("one without a name",)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", r"no column text or label \(columns: none\)"),
        (b"text,class\na,b\n", r"no column label \(columns: text, class\)"),
        (b"a;b\n1;2\n", "no column text or label"),
        (b"text,label\n\xff\xfe,yes\n", "not in UTF-8"),
        (b"text,label\na\0b,yes\n", "binary"),
        (b'text,label\n"never closed,yes\n', "line 2 that is no CSV"),
        (
            b"text,label\nno quotes, two commas,yes\n",
            "line 2 of the file with 3 cells under 2 columns",
        ),
        (b"text,label,Text\na,b,c\n", "column text twice"),
        (b"PK\x03\x04" + bytes(range(200)), "not in UTF-8|binary"),
    ],
)
def test_a_csv_that_will_not_do(raw: bytes, says: str) -> None:
    with pytest.raises(StitchLensError, match=says) as refused:
        labelled(read_csv(raw))
    assert "\n" not in str(refused.value)


def test_three_million_rows_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"text,label\n" + b"a b,y\nc d,n\n" * 1_500_000)
    start = time.perf_counter()
    with pytest.raises(StitchLensError, match=f"more than {MOST_ROWS:,} rows"):
        labelled(read_labels([tmp_path / "rows.csv"]))
    (tmp_path / "wide.csv").write_bytes(b"text,label\n" + b"a longer text,y\n" * 3_000_000)
    with pytest.raises(StitchLensError, match="over 20,000,000 bytes"):
        read_labels([tmp_path / "wide.csv"])
    assert time.perf_counter() - start < 5


def test_two_lists_and_their_faults(tmp_path: Path) -> None:
    for name, word in (("yes", "good"), ("no", "bad")):
        (tmp_path / name).write_text("\n\n".join(f"{word} {i}" for i in range(LEAST)), "utf-8")
    rows = list(read_labels([tmp_path / "yes", tmp_path / "no"]))
    assert labelled(rows).y.tolist() == [1] * LEAST + [0] * LEAST
    assert two_lists("", "") == []
    for name, word in (("yes", "good"), ("no", "bad")):
        (tmp_path / name).write_bytes(
            b"\xef\xbb\xbf" + "\r\n\r\n".join(f"{word} {i}" for i in range(LEAST)).encode()
        )
    assert list(read_labels([tmp_path / "yes", tmp_path / "no"])) == rows, "as saved on Windows"
    assert two_lists("one\u2028line \ud83d", "") == [("one\u2028line \ufffd", "yes")]
    with pytest.raises(StitchLensError, match="3 files"):
        read_labels([tmp_path / "yes"] * 3)
    with pytest.raises(StitchLensError, match="unreadable"):
        read_labels([tmp_path / "nowhere.csv"])


def test_saebenchs_rules_on_tables() -> None:
    """Its class rules on a table of our own; the hub itself is out of reach here."""
    rows = [(c, g, f"{c}{g}{i}") for c, g, i in product(("0", "1", "2"), (0, 1), range(30))]
    table = pd.DataFrame(rows, columns=["profession", "gender", "hard_text"])
    found = saebench.sampled(table, ("0", "2"), "profession", "hard_text", 20, "gender")
    assert {c: len(t) for c, t in found.items()} == {"0": 20, "2": 20}
    assert sum(t.startswith("00") for t in found["0"]) == 10, "as many of each gender"
    with pytest.raises(StitchLensError, match="30 texts of class 0"):
        saebench.sampled(table, ("0",), "profession", "hard_text", 80, "gender")
    with pytest.raises(StitchLensError, match="0 texts of class 9"):
        saebench.sampled(table, ("9",), "profession", "hard_text", 8, "gender")
    train, test = saebench.shuffled({"C": [f"t{i}" for i in range(50)]}, 30, 10)
    assert len(train["C"]) == 30 and len(test["C"]) == 10 and not set(train["C"]) & set(test["C"])
    assert len(saebench.CLASSES) == 8 and sum(map(len, saebench.CLASSES.values())) == 36


@pytest.mark.parametrize("datasets", [lambda: saebench.saebench_datasets(["fancyzhx/ag_news"])])
def test_without_the_hub_it_is_said(datasets: Callable[[], object]) -> None:
    with pytest.raises(StitchLensError, match="ag_news' out of reach"):
        datasets()
    with pytest.raises(StitchLensError, match="no dataset 'mnist'"):
        saebench.saebench_datasets(["mnist"])
