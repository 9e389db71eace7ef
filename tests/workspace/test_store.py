"""A workspace keeps its word: atomic, hashed, locked, and every fault is one sentence that loses
nothing."""

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from safetensors.torch import save_file

from core.errors import StitchLensError
from core.workspace import store
from core.workspace.disk import STALE_SECONDS, beside, fingerprint, only_one, sha256_file
from core.workspace.manifest import SCHEMA
from core.workspace.places import PROJECT
from core.workspace.store import Workspace

ROOT = PROJECT


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    w = Workspace("pair", tmp_path)
    w.put_record("pair", {"n": 1}, {"by": "test"})
    w.put_table("tables/one", pd.DataFrame({"x": [1.5, 2.5], "y": ["α", "你"]}), {"corpus": "c"})
    return w


def refuse(what: Any, *args: Any) -> str:
    with pytest.raises(StitchLensError) as e:
        what(*args)
    assert "\n" not in str(e.value)
    return str(e.value)


def files(w: Workspace) -> list[str]:
    found = (p.relative_to(w.root) for p in w.root.rglob("*") if p.is_file())
    return sorted(str(p) for p in found if p.name != ".lock")


def test_what_is_put_is_found(ws: Workspace) -> None:
    again = Workspace("pair", ws.root.parent)
    assert again.record("pair") == {"n": 1}
    pd.testing.assert_frame_equal(
        again.table("tables/one"), pd.DataFrame({"x": [1.5, 2.5], "y": ["α", "你"]})
    )
    entry = again.entry("tables/one")
    assert entry.makers == {"corpus": "c"}
    assert entry.sha256 == sha256_file(ws.root / entry.path)
    assert entry.bytes == (ws.root / entry.path).stat().st_size
    assert entry.sha256[:8] in entry.path
    assert "torch" in entry.versions
    assert again.names() == ["pair", "tables/one"]
    assert again.names("table") == ["tables/one"]
    assert again.names(prefix="p") == ["pair"]
    assert again.verify() == {}


def test_columns_of_every_kind_come_back_as_they_were(ws: Workspace) -> None:
    """And floats take less room than Parquet's usual way gives them."""
    n = 30_000
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "feature": np.arange(n, dtype=np.int32),
            "r": random.normal(0.5, 0.1, n).astype(np.float32),
            "loss": random.normal(3, 1, n),
            "kind": pd.Categorical(["English", "code", "other"] * (n // 3)),
            "word": ["α", "你", ""] * (n // 3),
            "found": random.random(n) < 0.5,
            "lengths": [[1, 2], [], [3]] * (n // 3),
            "weights": [[0.5, math.nan], [], [1.0]] * (n // 3),
        }
    )
    table.loc[5, ["r", "loss"]] = math.nan
    ws.put_table("tables/all", table, {})
    read = ws.table("tables/all")
    lists = ["lengths", "weights"]
    assert read.drop(columns=lists).equals(table.drop(columns=lists))
    assert read.dtypes.equals(table.dtypes)
    assert [list(x) for x in read.lengths] == table.lengths.tolist()
    assert all(map(np.array_equal, read.weights[1:3], table.weights[1:3]))

    usual = io.BytesIO()
    table.to_parquet(usual, index=False, compression="zstd", compression_level=15)
    assert ws.path("tables/all").stat().st_size < 0.95 * len(usual.getvalue())


def test_replacing_and_removing_leave_no_litter(ws: Workspace) -> None:
    before = files(ws)
    ws.put_record("pair", {"n": 2}, {})
    assert ws.record("pair") == {"n": 2}
    assert len(files(ws)) == len(before)
    ws.put_record("pair", {"n": 2}, {})  # the same bytes, so the same path
    assert ws.record("pair") == {"n": 2}
    ws.remove("pair")
    assert ws.names() == ["tables/one"]
    assert len(files(ws)) == len(before) - 1


def test_an_exception_while_writing_changes_nothing(ws: Workspace) -> None:
    before = files(ws)

    def half(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        ws.put("pair", half, "record", ".json", {})
    assert files(ws) == before
    assert ws.record("pair") == {"n": 1}


KILLED = """
import os, signal, sys
from pathlib import Path
import core.workspace.store as store
from core.workspace.store import Workspace
moment = sys.argv[2]
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
def write(path):
    path.write_text('{"n": 9' if moment == "half-written" else '{"n": 9}')
    if moment == "half-written":
        die()
def audit(event, args):  # the real calls of the operating system, seen by Python's own audit hook
    if event == "os.rename" and moment == "before-manifest" and str(args[1]).endswith("manifest.json"):
        die()
    if event == "os.remove" and moment == "before-old-is-removed" and str(args[0]).endswith(".json"):
        die()
sys.addaudithook(audit)
Workspace("pair", Path(sys.argv[1])).put("pair", write, "record", ".json", {})
"""


@pytest.mark.parametrize(
    ("moment", "n"),
    [("half-written", 1), ("before-manifest", 1), ("before-old-is-removed", 9), ("never", 9)],
)
def test_a_kill_leaves_the_old_or_the_new(ws: Workspace, moment: str, n: int) -> None:
    command = [sys.executable, "-c", KILLED, str(ws.root.parent), moment]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if moment == "never" else -signal.SIGKILL), done.stderr
    assert ws.record("pair") == {"n": n}
    assert ws.verify() == {}
    ws.put_record("pair", {"n": 10}, {})  # the dead writer's lock does not stand in the way
    assert ws.record("pair") == {"n": 10}


def test_a_flipped_byte_is_named(ws: Workspace) -> None:
    entry = ws.entry("tables/one")
    path = ws.root / entry.path
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    message = refuse(ws.table, "tables/one")
    assert entry.path in message
    assert entry.sha256[:12] in message
    assert sha256_file(path)[:12] in message
    assert list(ws.verify()) == ["tables/one"]
    assert ws.record("pair") == {"n": 1}, "the rest is whole"


def test_a_file_that_is_gone_is_named(ws: Workspace) -> None:
    path = ws.root / ws.entry("pair").path
    path.unlink()
    assert path.name in refuse(ws.record, "pair")


def test_a_missing_artifact_lists_those_that_exist(ws: Workspace) -> None:
    message = refuse(ws.table, "tables/two")
    assert "'tables/two'" in message
    assert "tables/one" in message
    assert "tables/one" in refuse(ws.record, "else")


def manifest(w: Workspace, **changed: Any) -> None:
    path = w.root / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_manifests_that_do_not_fit(ws: Workspace) -> None:
    manifest(ws, schema_version=SCHEMA + 1)
    message = refuse(ws.names)
    assert f"schema {SCHEMA + 1}" in message
    assert f"{SCHEMA} or older" in message
    refuse(ws.put_record, "pair", {"n": 2}, {})
    assert json.loads((ws.root / "manifest.json").read_text())["schema_version"] == SCHEMA + 1, (
        "not overwritten"
    )
    manifest(ws, schema_version=SCHEMA, pair="another")
    message = refuse(ws.names)
    assert "'another'" in message
    assert "'pair'" in message
    manifest(ws, pair="pair", surprise=1)
    assert "surprise" in refuse(ws.names)
    for text in ("", "{", "[]", "null", '{"pair": "pair"}'):
        (ws.root / "manifest.json").write_text(text)
        refuse(ws.names)
    (ws.root / "manifest.json").write_bytes(b"\xff\xfe\0")
    refuse(ws.names)


def test_no_workspace_says_how_to_build_one(tmp_path: Path) -> None:
    w = Workspace("nothing", tmp_path)
    assert not w.exists
    assert "python -m core build nothing" in refuse(w.names)


def test_two_writers(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.2)
    code = "import sys\nfrom filelock import FileLock\n"
    code += "with FileLock(sys.argv[1]):\n print(1, flush=True)\n sys.stdin.read()"
    command = [sys.executable, "-c", code, str(ws.root / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert "another process" in refuse(ws.put_record, "pair", {"n": 2}, {})
        assert "another process" in refuse(ws.remove, "pair")
        assert ws.record("pair") == {"n": 1}, "reading needs no lock"
        other.communicate()
    ws.put_record("pair", {"n": 2}, {})
    assert ws.record("pair") == {"n": 2}


MANY = """
import sys
from pathlib import Path
from core.workspace.store import Workspace
for k in range(8):
    Workspace("pair", Path(sys.argv[1])).put_record(f"{sys.argv[2]}{k}", {"k": k}, {})
"""


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MANY, str(tmp_path)]
    writers = [subprocess.Popen([*command, name], cwd=ROOT) for name in "ab"]
    assert [w.wait() for w in writers] == [0, 0]
    w = Workspace("pair", tmp_path)
    assert w.names() == sorted(f"{name}{k}" for name in "ab" for k in range(8))
    assert w.verify() == {}


def test_only_one_refuses_a_second_holder_and_lets_go() -> None:
    with only_one("pair", "build"):
        assert "another build of 'pair'" in refuse(only_one("pair", "build").__enter__)
        with only_one("other", "build"), only_one("pair", "harvest"):
            pass
    with pytest.raises(ZeroDivisionError), only_one("pair", "build"):
        raise ZeroDivisionError
    with only_one("pair", "build"):
        pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB; skipped where it takes rights that the tests do not have."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if (
        not hasattr(os, "geteuid")
        or os.geteuid()
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("a small disk can be mounted by root alone")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def big_tensors(path: Path) -> None:
    save_file({"x": torch.zeros(400, 400)}, path)


def big_text(path: Path) -> None:
    path.write_text("x" * 1_000_000)


def big_table(path: Path) -> None:
    pd.DataFrame({"x": torch.rand(100_000).numpy()}).to_parquet(path)


@pytest.mark.parametrize("write", [big_tensors, big_text, big_table])
def test_a_full_disk_is_one_sentence_and_loses_nothing(small_disk: Path, write: Any) -> None:
    w = Workspace("pair", small_disk)
    w.put_record("pair", {"n": 1}, {})
    before = files(w)
    assert "full disk" in refuse(w.put, "big", write, "table", ".bin", {})
    assert files(w) == before
    assert w.record("pair") == {"n": 1}
    w.put_record("pair", {"n": 2}, {})
    assert w.record("pair") == {"n": 2}


LIMITED = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from core.errors import StitchLensError
from core.workspace.store import Workspace
w = Workspace("pair", Path(sys.argv[1]))
w.put_record("pair", {"n": 1}, {})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for write in (lambda p: save_file({"x": np.zeros(100_000)}, p), lambda p: p.write_text("x" * 1_000_000)):
    try:
        w.put("big", write, "table", ".bin", {})
    except StitchLensError as e:
        print(e)
"""


def test_a_file_limit_is_one_sentence(tmp_path: Path) -> None:
    """Without a disk of our own: the system's own limit on a file's size, in a process of its
    own."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.count("File too large") == done.stdout.count("\n") == 2
    w = Workspace("pair", tmp_path)
    assert w.names() == ["pair"]
    assert w.verify() == {}
    assert len(files(w)) == 2


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """Root may write anywhere, so the folder's place is taken by a file: the same OSError on every
    system."""
    (tmp_path / "pair").write_text("a file, not a folder")
    message = refuse(Workspace("pair", tmp_path).put_record, "pair", {}, {})
    assert str(tmp_path / "pair") in message
    message = refuse(beside(tmp_path / "pair" / "x").__enter__)
    assert "a place that can be written" in message


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write to a read-only folder"
)
def test_a_read_only_folder(ws: Workspace) -> None:
    ws.root.chmod(0o555)
    try:
        assert "Permission denied" in refuse(ws.put_record, "pair", {"n": 2}, {})
        assert ws.record("pair") == {"n": 1}
    finally:
        ws.root.chmod(0o755)


def test_a_read_only_disk(small_disk: Path) -> None:
    w = Workspace("pair", small_disk)
    w.put_record("pair", {"n": 1}, {})
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "Read-only file system" in refuse(w.put_record, "pair", {"n": 2}, {})
    assert w.record("pair") == {"n": 1}


def test_fingerprints_depend_on_the_value_alone() -> None:
    assert fingerprint({"a": 1, "b": [2, None]}) == fingerprint({"b": [2, None], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})
    assert len(fingerprint(0)) == 16


def test_a_lock_is_waited_for(ws: Workspace) -> None:
    lock = FileLock(ws.root / ".lock", thread_local=False)
    lock.acquire()
    code = MANY.replace("range(8)", "range(1)")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(ws.root.parent), "late"], cwd=ROOT
    ) as late:
        time.sleep(2.5)
        assert late.poll() is None
        assert "late0" not in ws.names()
        lock.release()
        assert late.wait() == 0
    assert "late0" in ws.names()


def test_a_folder_is_an_artifact_too(ws: Workspace) -> None:
    def write(text: str) -> Any:
        def into(folder: Path) -> None:
            (folder / "cfg.json").write_text(text)
            (folder / "weights").write_bytes(b"w")

        return into

    first = ws.put_folder("saes/one", write("a"), "sae", {"k": 1})
    assert sorted(p.name for p in ws.path("saes/one").iterdir()) == ["cfg.json", "weights"]
    second = ws.put_folder("saes/one", write("b"), "sae", {"k": 2})
    assert (ws.path("saes/one") / "cfg.json").read_text() == "b"
    assert first.sha256 != second.sha256 and not (ws.root / first.path).exists()
    assert second.bytes == 2 and ws.verify() == {}
    (ws.path("saes/one") / "weights").write_bytes(b"v")
    assert "the file was changed" in refuse(ws.path, "saes/one")

    def fails(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")

    assert "a full disk" in refuse(ws.put_folder, "saes/two", fails, "sae", {})
    assert [p.name for p in (ws.root / "saes").iterdir()] == [Path(second.path).name]
    ws.remove("saes/one")
    assert list((ws.root / "saes").iterdir()) == []


def test_what_a_killed_writer_left_is_cleared_after_a_day(tmp_path: Path) -> None:
    old, young, other = (tmp_path / n for n in (".a.txt.1.part", ".a.txt.2.part", ".b.txt.1.part"))
    for path in (old, young, other):
        path.write_text("half")
    long_ago = time.time() - 2 * STALE_SECONDS
    for path in (old, other):
        os.utime(path, (long_ago, long_ago))
    with beside(tmp_path / "a.txt") as part:
        part.write_text("whole")
    assert {p.name for p in tmp_path.iterdir()} == {"a.txt", young.name, other.name}
