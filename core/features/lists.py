"""Lists of features with notes, private to a browser or kept in the workspace, under a short id.

    ws = Workspace("nano", private=frame.mine())   # without `private`, lists are for everyone
    list_id = lists.new(ws, "French")              # 'p-k3v7q2ha': private until it is kept
    lists.add(ws, list_id, "L2-1024", 7, "also Catalan")
    lists.annotate(ws, list_id, "L2-1024", 7, "Catalan and Occitan too")
    lists.remove(ws, list_id, "L2-1024", 7)
    lists.rename(ws, list_id, "Romance")
    lists.read(ws, list_id).entries                # in the order in which they were added
    lists.every(ws)                                # by id: private ones first, then by name
    shared_id = lists.keep(ws, list_id)            # 'k3v7q2ha': for everyone, the link's id
    lists.delete(ws, shared_id)
    feature_list.as_csv(ws, lists.read(ws, shared_id)), feature_list.as_json(...)

Every change returns the list as it is then, and raises StitchLensError where it cannot be made; in
a demonstration none can, but a `FeatureList` changes as a value without being stored.

A list lies in the folder `lists` of its workspace; it is no artifact. A private one goes with all
else that its browser brought, a day after nobody came back.
"""

import base64
import contextlib
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from core.config import check
from core.errors import StitchLensError, broken
from core.features.feature_list import Entry, FeatureList, as_json, checked_entry
from core.workspace import demonstration
from core.workspace.disk import LOCK_SECONDS, beside, disk_faults
from core.workspace.short_ids import PRIVATE, check_id
from core.workspace.store import LISTS, Workspace, has
from core.workspace.untrusted import MB, parse_json

MOST_LISTS = 100
"""That a workspace keeps, and that each person keeps beside it."""
LARGEST = 2 * MB
"""Bytes of a list on disk."""


def new(ws: Workspace, name: str) -> str:
    """Start a list; returns its id."""
    demonstration.refuse("a list to keep")
    listed = check(
        FeatureList,
        "give it another name",
        pair=ws.pair,
        name=name,
    )
    private = ws.private is not None
    list_id = _free_id(PRIVATE if private else "")
    _write_new(ws, list_id, listed)
    return list_id


def read(ws: Workspace, list_id: str) -> FeatureList:
    """The list of that id. Raises StitchLensError where there is none, and why."""
    path = _path(ws, list_id)
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError:
        raise _no_list(ws, list_id) from None

    listed = _parsed(raw, list_id)
    if listed.pair != ws.pair:
        raise StitchLensError(
            f"a list of pair '{listed.pair}'",
            f"one of '{ws.pair}'",
            "choose that pair",
        )
    return listed


def every(ws: Workspace) -> dict[str, FeatureList]:
    """All lists that can be seen from here, by id: private ones first, then by name. One that
    cannot be read is left out."""
    homes = [ws] if ws.private is None else [ws, ws.shared]
    lists: dict[str, FeatureList] = {}
    for home in homes:
        part: dict[str, FeatureList] = {}
        for path in (home.root / LISTS).glob("*.json"):
            with contextlib.suppress(StitchLensError):
                part[path.stem] = read(ws, path.stem)
        lists |= dict(sorted(part.items(), key=lambda item: (item[1].name.casefold(), item[0])))
    return lists


def add(
    ws: Workspace,
    list_id: str,
    sae: str,
    feature: int,
    note: str = "",
) -> FeatureList:
    """Put a feature at the end of a list; see `FeatureList.added`."""
    entry = checked_entry(sae, feature, note)
    _measured(ws, ws if list_id.startswith(PRIVATE) else ws.shared, entry)
    return _change(ws, list_id, lambda listed: listed.added(sae, feature, note))


def remove(
    ws: Workspace,
    list_id: str,
    sae: str,
    feature: int,
) -> FeatureList:
    """Take a feature out of a list."""
    return _change(ws, list_id, lambda listed: listed.removed(sae, feature))


def annotate(
    ws: Workspace,
    list_id: str,
    sae: str,
    feature: int,
    note: str,
) -> FeatureList:
    """Write another note at a feature of a list."""
    return _change(ws, list_id, lambda listed: listed.annotated(sae, feature, note))


def rename(ws: Workspace, list_id: str, name: str) -> FeatureList:
    """Give a list another name."""
    return _change(ws, list_id, lambda listed: listed.renamed(name))


def keep(ws: Workspace, list_id: str) -> str:
    """Move a private list to where everyone sees it; returns its new id, which a link may name.

    Raises StitchLensError where it holds a feature of an SAE that is private itself.
    """
    demonstration.refuse("a list to keep")
    if not list_id.startswith(PRIVATE):
        read(ws, list_id)
        return list_id

    with _only_writer(ws, list_id):
        listed = read(ws, list_id)
        for sae in dict.fromkeys(entry.sae for entry in listed.entries):
            _reachable(ws, ws.shared, sae)

        shared_id = _free_id("")
        _write_new(ws, shared_id, listed)
        _path(ws, list_id).unlink(missing_ok=True)
    return shared_id


def delete(ws: Workspace, list_id: str) -> None:
    """Take a list away."""
    demonstration.refuse("a list to take away")
    with _only_writer(ws, list_id):
        read(ws, list_id)
        _path(ws, list_id).unlink(missing_ok=True)


# on disk


def _free_id(prefix: str) -> str:
    return prefix + base64.b32encode(secrets.token_bytes(5)).decode().lower()


def _folder(ws: Workspace, list_id: str) -> Path:
    """Where a list of that id lies. Raises StitchLensError for what is no id, and for a private one
    where nothing private is at hand."""
    check_id("list", list_id)
    private = list_id.startswith(PRIVATE)
    if private and ws.private is None:
        raise _no_list(ws, list_id)
    return (ws if private else ws.shared).root / LISTS


def _path(ws: Workspace, list_id: str) -> Path:
    return _folder(ws, list_id) / f"{list_id}.json"


def _parsed(raw: bytes, list_id: str) -> FeatureList:
    try:
        return FeatureList.model_validate(parse_json(raw, f"list {list_id}", LARGEST))
    except ValidationError as e:
        wanted = "one as it was written"
        raise broken(e, f"list {list_id}", wanted, "start another list") from None


def _write(path: Path, listed: FeatureList) -> None:
    with beside(path) as part:
        part.write_text(as_json(listed), "utf-8")


def _write_new(ws: Workspace, list_id: str, listed: FeatureList) -> None:
    """Raises StitchLensError where there are MOST_LISTS already."""
    path = _path(ws, list_id)
    with _only_writer(ws, list_id):
        if len(list(path.parent.glob("*.json"))) >= MOST_LISTS:
            raise StitchLensError(
                f"{MOST_LISTS + 1} lists",
                f"at most {MOST_LISTS}",
                "delete one that is not needed",
            )
        _write(path, listed)


def _change(
    ws: Workspace,
    list_id: str,
    change: Callable[[FeatureList], FeatureList],
) -> FeatureList:
    demonstration.refuse("a list to change")
    with _only_writer(ws, list_id):
        listed = change(read(ws, list_id))
        _write(_path(ws, list_id), listed)
    return listed


@contextlib.contextmanager
def _only_writer(ws: Workspace, list_id: str) -> Iterator[None]:
    """The lock of the folder in which a list lies: two changes at once are both made."""
    folder = _folder(ws, list_id)
    lock = folder / ".lock"
    try:
        with disk_faults(folder):
            folder.mkdir(parents=True, exist_ok=True)
            writer = FileLock(lock, timeout=LOCK_SECONDS)
            writer.acquire()
    except Timeout:
        raise StitchLensError(
            "another change of these lists",
            "to be the only writer",
            "try again",
        ) from None
    try:
        yield
    finally:
        writer.release()


def _reachable(ws: Workspace, listed_for: Workspace, sae: str) -> None:
    """Raises StitchLensError where those who see a list do not see an SAE of it."""
    name = f"features/{sae}"
    if has(ws, name) and not has(listed_for, name):
        raise StitchLensError(
            f"SAE '{sae}', which is private to this browser, in a list for everyone",
            "an SAE that everyone sees",
            "keep the SAE in the workspace first",
        )
    listed_for.entry(name)


def _measured(ws: Workspace, listed_for: Workspace, entry: Entry) -> None:
    """Raises StitchLensError where those who see a list see no such feature."""
    _reachable(ws, listed_for, entry.sae)
    name = f"features/{entry.sae}"
    if len(listed_for.table(name, feature=entry.feature)):
        return

    width = len(listed_for.table(name))
    raise StitchLensError(
        f"feature {entry.feature}",
        f"0 to {width - 1} of SAE {entry.sae}",
        "choose one of these",
    )


def _no_list(ws: Workspace, list_id: str) -> StitchLensError:
    if list_id.startswith(PRIVATE):
        return StitchLensError(
            f"list {list_id}, which is private to another browser",
            "a list that all may see",
            "ask whoever sent the link to keep it in the workspace",
        )
    return StitchLensError(
        f"no list {list_id} in workspace '{ws.pair}'",
        "one that was kept there",
        "ask whoever sent the link; it may have been deleted",
    )
