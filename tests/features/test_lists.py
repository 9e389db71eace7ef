"""Lists of features: what is put in comes out, notes stay text, private ones stay private, and
nothing is lost when two people write at once."""

import csv
import io
import json
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from core.errors import StitchLensError
from core.features import feature_list, lists
from core.features.feature_list import COLUMNS, Entry, FeatureList, as_csv, as_json
from core.features.search import results
from core.workspace import short_ids
from core.workspace.places import PROJECT
from core.workspace.store import Workspace

SAE = "L2-1024"


@pytest.fixture
def ws(nano_home: Path) -> Workspace:
    return Workspace("nano", nano_home)


@pytest.fixture
def owner(nano_home: Path, tmp_path: Path) -> Workspace:
    """One browser's view, which has brought nothing yet."""
    return Workspace("nano", nano_home, tmp_path / "me")


def numbers(listed: FeatureList) -> list[int]:
    return [entry.feature for entry in listed.entries]


def test_a_list_comes_back_as_it_was_written(ws: Workspace) -> None:
    list_id = lists.new(ws, "  Romance \n words ")
    lists.add(ws, list_id, SAE, 7, "also Catalan\nand Occitan 🙂 שלום")
    written = lists.add(ws, list_id, SAE, 3)

    assert short_ids.ID.fullmatch(list_id) and len(list_id) == 8
    assert lists.read(ws, list_id) == written
    assert (written.name, numbers(written)) == ("Romance words", [7, 3])
    assert written.note_of(SAE, 7) == "also Catalan\nand Occitan 🙂 שלום"
    assert written.note_of(SAE, 3) == "" and written.note_of(SAE, 4) is None
    assert lists.every(ws)[list_id] == written


def test_it_is_changed_and_taken_away(ws: Workspace) -> None:
    list_id = lists.new(ws, "French")
    for feature in (5, 6, 7):
        lists.add(ws, list_id, SAE, feature, f"note {feature}")

    assert numbers(lists.add(ws, list_id, SAE, 5)) == [5, 6, 7]
    assert lists.read(ws, list_id).note_of(SAE, 5) == "note 5", "adding again takes no note away"
    assert lists.add(ws, list_id, SAE, 5, "new").note_of(SAE, 5) == "new"
    assert lists.annotate(ws, list_id, SAE, 5, "").note_of(SAE, 5) == ""
    assert numbers(lists.remove(ws, list_id, SAE, 6)) == [5, 7]
    assert numbers(lists.remove(ws, list_id, SAE, 6)) == [5, 7], "twice is once"
    assert lists.rename(ws, list_id, "Français").name == "Français"
    assert lists.read(ws, list_id).name == "Français"

    lists.delete(ws, list_id)
    assert list_id not in lists.every(ws)
    with pytest.raises(StitchLensError, match=f"no list {list_id} in workspace 'nano'"):
        lists.read(ws, list_id)


def test_a_private_list_is_its_owners_until_it_is_kept(ws: Workspace, owner: Workspace) -> None:
    list_id = lists.new(owner, "mine")
    lists.add(owner, list_id, SAE, 1, "secret")
    assert list_id.startswith("p-") and next(iter(lists.every(owner))) == list_id

    stranger = Workspace("nano", ws.root.parent, owner.root.parent.parent / "another")
    changes: list[Callable[[Workspace], Any]] = [
        lambda view: lists.read(view, list_id),
        lambda view: lists.add(view, list_id, SAE, 2),
        lambda view: lists.keep(view, list_id),
        lambda view: lists.delete(view, list_id),
    ]
    for view in (ws, stranger):
        assert list_id not in lists.every(view)
        for change in changes:
            with pytest.raises(StitchLensError, match="private to another browser"):
                change(view)
    assert not [path for path in ws.root.rglob("*") if list_id in path.name]

    shared_id = lists.keep(owner, list_id)
    assert lists.read(ws, shared_id) == lists.read(stranger, shared_id)
    assert lists.read(ws, shared_id).note_of(SAE, 1) == "secret"
    assert list_id not in lists.every(owner), "it has moved"
    assert lists.keep(owner, shared_id) == shared_id, "one that is kept stays"


def test_a_list_for_everyone_names_no_private_sae(ws: Workspace, owner: Workspace) -> None:
    table = ws.table(f"features/{SAE}")
    owner.put_table("features/brought", table, {})
    list_id, shared_id = lists.new(owner, "mine"), lists.new(ws, "ours")
    assert numbers(lists.add(owner, list_id, "brought", 4)) == [4]

    with pytest.raises(StitchLensError, match="keep the SAE in the workspace first"):
        lists.keep(owner, list_id)
    with pytest.raises(StitchLensError, match="private to this browser"):
        lists.add(owner, shared_id, "brought", 4)
    assert numbers(lists.read(owner, list_id)) == [4] and not lists.read(ws, shared_id).entries


@pytest.mark.parametrize(
    ("sae", "feature", "note", "says"),
    [
        (SAE, 1024, "", "0 to 1023"),
        (SAE, -1, "", "greater than or equal to 0"),
        (SAE, 10**12, "", "less than"),
        ("nothing", 1, "", "features/nothing"),
        ("../../etc", 1, "", "Found"),
        ("", 1, "", "at least 1"),
        ("x" * 201, 1, "", "at most 200"),
        (SAE, 1, "x" * 501, "at most 500"),
        (SAE, 1, "a\x00b", "U\\+0000"),
        (SAE, 1, "a\ud800b", "valid string"),
    ],
)
def test_what_is_no_entry_is_refused(
    ws: Workspace, sae: str, feature: int, note: str, says: str
) -> None:
    list_id = lists.new(ws, "bad input")
    with pytest.raises(StitchLensError, match=f"(?i){says}") as fault:
        lists.add(ws, list_id, sae, feature, note)
    assert len(str(fault.value)) < 1500
    assert lists.read(ws, list_id).entries == ()


@pytest.mark.parametrize("name", ["", " \n ", "x" * 81, "a\x07b", "\ud800"])
def test_a_bad_name_is_refused(ws: Workspace, name: str) -> None:
    before = lists.every(ws)
    with pytest.raises(StitchLensError, match="another name"):
        lists.new(ws, name)
    list_id = lists.new(ws, "good")
    with pytest.raises(StitchLensError):
        lists.rename(ws, list_id, name)
    assert lists.read(ws, list_id).name == "good"
    lists.delete(ws, list_id)
    assert lists.every(ws) == before


@pytest.mark.parametrize(
    "list_id", ["", "k3v7q2h", "../../x", "K3V7Q2HA", "k3v7q2ha9", "x" * 9999, "p-", "٣" * 8]
)
def test_a_malformed_id_is_said(ws: Workspace, list_id: str) -> None:
    with pytest.raises(StitchLensError, match="8 letters and digits") as fault:
        lists.read(ws, list_id)
    assert len(str(fault.value)) < 400


def test_counts_are_bounded(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_list, "MOST", 2)
    monkeypatch.setattr(lists, "MOST_LISTS", len(lists.every(ws)) + 1)
    list_id = lists.new(ws, "the last")
    with pytest.raises(StitchLensError, match="delete one"):
        lists.new(ws, "one too many")

    for feature in (1, 2):
        lists.add(ws, list_id, SAE, feature)
    with pytest.raises(StitchLensError, match="start another list"):
        lists.add(ws, list_id, SAE, 3)
    assert numbers(lists.read(ws, list_id)) == [1, 2]
    lists.delete(ws, list_id)
    lists.delete(ws, lists.new(ws, "room again"))


def test_the_fullest_list_is_read_again(ws: Workspace) -> None:
    entries = [
        {"sae": "🙂" * 200, "feature": k, "note": "🙂" * 500} for k in range(feature_list.MOST)
    ]
    full = FeatureList.model_validate({"pair": "nano", "name": "🙂" * 80, "entries": entries})
    raw = as_json(full).encode()
    assert len(raw) <= lists.LARGEST

    list_id = lists.new(ws, "full")
    (ws.root / "lists" / f"{list_id}.json").write_bytes(raw)
    assert lists.read(ws, list_id) == full
    lists.delete(ws, list_id)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "no JSON"),
        (b"[1]", "no object"),
        (b'{"pair": "nano"}', "fault at name"),
        (b'{"pair": "other", "name": "x"}', "a list of pair 'other'"),
        (b'{"pair": "nano", "name": "x", "colour": 1}', "fault at colour"),
        (
            b'{"pair": "nano", "name": "x", "entries": ['
            b'{"sae": "s", "feature": 1}, {"sae": "s", "feature": 1}]}',
            "stands in it twice",
        ),
        (b'{"a": "' + b"x" * 2**21 + b'"}', "over 2,097,152"),
    ],
)
def test_a_damaged_list_is_said_and_hides_no_other(ws: Workspace, raw: bytes, says: str) -> None:
    whole = lists.new(ws, "whole")
    (ws.root / "lists" / "aaaaaaaa.json").write_bytes(raw)
    with pytest.raises(StitchLensError, match=says):
        lists.read(ws, "aaaaaaaa")
    assert whole in lists.every(ws) and "aaaaaaaa" not in lists.every(ws)
    (ws.root / "lists" / "aaaaaaaa.json").unlink()


def test_changes_at_once_are_all_made(ws: Workspace) -> None:
    list_id = lists.new(ws, "crowd")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: lists.add(ws, list_id, SAE, k), range(24)))
    assert sorted(numbers(lists.read(ws, list_id))) == list(range(24))


def test_csv_has_what_is_known_of_each(ws: Workspace) -> None:
    list_id = lists.new(ws, "table")
    lists.add(ws, list_id, SAE, 9, '=HYPERLINK("x")')
    listed = lists.add(ws, list_id, SAE, 2, 'a "quote", and\na line')
    gone = {"sae": "removed", "feature": 1}
    listed = FeatureList.model_validate(
        listed.model_dump() | {"entries": [*listed.entries, Entry(**gone)]}
    )

    rows = list(csv.DictReader(io.StringIO(as_csv(ws, listed))))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["sae"], row["feature"]) for row in rows] == [
        (SAE, "9"),
        (SAE, "2"),
        ("removed", "1"),
    ]
    assert rows[0]["note"] == '\'=HYPERLINK("x")', "a spreadsheet computes nothing"
    assert rows[1]["note"] == 'a "quote", and\na line'
    for row, of in zip(rows, results(ws, SAE, [9, 2]), strict=False):
        assert float(row["agreement"]) == pytest.approx(of["agreement"])
        assert row["label"].lstrip("'") == of["label"] and int(row["twin"]) == of["twin"]
    assert rows[2]["label"] == rows[2]["agreement"] == rows[2]["twin"] == ""


def test_json_is_the_list(ws: Workspace) -> None:
    list_id = lists.new(ws, "JSON")
    listed = lists.add(ws, list_id, SAE, 9, "שלום")
    record = json.loads(as_json(listed))
    assert record["format"] == "stitchlens-list-1"
    assert record["entries"] == [{"sae": SAE, "feature": 9, "note": "שלום"}]
    assert FeatureList.model_validate(record) == listed


def test_a_demonstration_keeps_none_but_a_value_goes_on(
    ws: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_id = lists.new(ws, "before")
    lists.add(ws, list_id, SAE, 1)
    monkeypatch.setenv("STITCHLENS_DEMO", "1")

    changes: list[Callable[[], Any]] = [
        lambda: lists.new(ws, "x"),
        lambda: lists.add(ws, list_id, SAE, 2),
        lambda: lists.rename(ws, list_id, "x"),
        lambda: lists.keep(ws, list_id),
        lambda: lists.delete(ws, list_id),
    ]
    for change in changes:
        with pytest.raises(StitchLensError, match="demonstration"):
            change()
    listed = lists.read(ws, list_id)
    assert numbers(listed) == [1]
    assert numbers(listed.added(SAE, 2, "seen").removed(SAE, 1)) == [2]


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "lists").write_text("a file in the folder's place")
    with pytest.raises(StitchLensError, match="check its permissions"):
        lists.new(Workspace("nano", tmp_path), "x")


def test_lists_are_no_artifacts_and_are_not_committed(ws: Workspace) -> None:
    list_id = lists.new(ws, "no artifact")
    path = ws.root / "lists" / f"{list_id}.json"
    assert path.exists() and path not in ws.strays()
    assert not [name for name in ws.names() if name.startswith("lists")]
    ignored = ["cache/nano/lists/k3v7q2ha.json", "cache/nano/manifest.json"]
    git = ["git", "check-ignore", "--no-index", *ignored]
    listed = subprocess.run(git, cwd=PROJECT, capture_output=True, text=True).stdout
    assert listed.splitlines() == ignored[:1]
