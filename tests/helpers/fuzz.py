"""Does every reader of files from outside refuse what is bad, with a sentence, at once and in
little memory?

    python -m tests.helpers.fuzz [--seconds 60] [--seed 0] [--json [FILE]] [--keep FOLDER]

First the corpus of tests/helpers/malformed.py, one fault a file; then files made from good and bad
ones by chance: bytes flipped, cut, repeated, spliced, lengths and JSON edited, parts of zips
changed and zipped anew. Each is read in another process. A refusal is a StitchLensError on one line
that names the fault; a damaged file may be accepted if all is finite. Exit status 1 where a target
is missed. `--keep` gets each failing file, with its seed, number and what was seen.
"""

import hashlib
import json
import multiprocessing as mp
import random
import re
import resource
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import psutil
from tqdm import tqdm

from benchmarks._measure import Benchmark, Line
from core.errors import StitchLensError
from core.workspace.untrusted import MB
from tests.helpers.malformed import READERS, Case, corpus, good, parts, zipped

LIMIT_S = 5.0
LEAST = 300
"""Distinct files of the corpus."""
SENTENCE = 1500
ADDRESS_SPACE = 12_000 * MB
"""What a reader that allocates without bounds runs into, for the machine's sake."""
PATIENCE = 6
"""Times the limit, until a reader that does not work counts as hanging."""
Readers = Mapping[str, tuple[Callable[[Path], bool], int]]


def peak_reset() -> bool:
    """Start the high-water mark of this process's memory anew; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak() -> int:
    """Bytes of the high-water mark: since `peak_reset`, or since the start where that cannot be."""
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def work(pipe: Connection, readers: Readers, warm: list[tuple[str, str]]) -> None:
    """Read what the pipe names, and say what came of it."""
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    for name, path in warm:
        attempt(readers[name][0], Path(path))
    pipe.send("ready")
    while (task := pipe.recv()) is not None:
        reader, path = task
        peak_reset()
        before, start = psutil.Process().memory_info().rss, time.process_time()
        outcome, said = attempt(readers[reader][0], Path(path))
        seconds = time.process_time() - start
        pipe.send((outcome, said, seconds, max(0, peak() - before)))


def attempt(read: Callable[[Path], bool], path: Path) -> tuple[str, str]:
    try:
        return ("accepted", "") if read(path) else ("traceback", "accepted, but not finite")
    except StitchLensError as e:
        return "refused", str(e)
    except BaseException:  # noqa: BLE001 - whatever it is, it is the finding
        return "traceback", traceback.format_exc()[-2500:]


class Worker:
    """A process that reads; replaced where it hangs or dies."""

    def __init__(self, readers: Readers, warm: list[tuple[str, str]], limit_s: float) -> None:
        self.readers, self.warm, self.limit_s = readers, warm, limit_s
        self.start()

    def start(self, tries: int = 2) -> None:
        context = mp.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=work, args=(theirs, self.readers, self.warm), daemon=True
        )
        # Whatever stands for the main module in a test's process must not run again in the worker.
        bare = {} if __name__ == "__main__" else {"__main__": ModuleType("__main__")}
        with mock.patch.dict(sys.modules, bare):
            self.process.start()
        theirs.close()
        try:
            self.pipe.recv()
        except EOFError:  # killed while it was starting
            if tries == 0:
                raise
            self.stop()
            self.start(tries - 1)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()

    def answered(self) -> bool:
        """Wait for as much time of the processor as the limit allows: that others keep it busy is
        not the reader's fault. One that waits instead of working is given up later."""
        clock = psutil.Process(self.process.pid)
        began, before = time.perf_counter(), sum(clock.cpu_times()[:2])
        while not self.pipe.poll(self.limit_s / 20):
            worked = sum(clock.cpu_times()[:2]) - before
            waited = time.perf_counter() - began
            if worked > self.limit_s or waited > PATIENCE * self.limit_s:
                return False
        return True

    def read(self, reader: str, path: Path) -> tuple[str, str, float, int]:
        """(outcome, what was said, seconds of the processor, bytes). What takes too long gets a
        second try."""
        took = 0.0
        for _ in range(2):
            start = time.perf_counter()
            try:
                self.pipe.send((reader, str(path)))
                if self.answered():
                    return self.pipe.recv()
            except (EOFError, OSError):
                self.stop()
                self.start()
                return "traceback", "the reading process died", time.perf_counter() - start, 0
            took = time.perf_counter() - start
            self.stop()
            self.start()
        return "hang", f"no answer within {self.limit_s:g} s, twice", took, 0


def at_fault(case: Case, outcome: str, said: str, grown: int, limit: int) -> str | None:
    """What is wrong with how a file was met; None where nothing is."""
    if outcome in ("traceback", "hang"):
        return said
    if grown > 2 * limit:
        return f"memory grew by {grown:,} bytes, over twice {limit:,}"
    if outcome == "refused":
        if (
            not re.fullmatch(r"Found .+; wanted .+: .+\.", said)
            or not said.isprintable()
            or len(said) > SENTENCE
        ):
            return f"no sentence: {said!r}"
        if case.says is not None and not re.search(case.says, said, re.I):
            return f"the sentence does not name the fault ({case.says}): {said}"
    elif case.says is not None:
        return "a bad file was accepted"
    return None


EDGES = (
    0,
    1,
    2,
    7,
    255,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**30,
    1.5,
    1e308,
    "",
    "x",
    "../x",
    "F32",
    "F64",
    "BOOL",
    [],
    [0],
    [-1],
    [2**40, 2**40],
    {},
    {"a": {}},
    "\ud800",
    "\n\x1b[31m",
    "topk",
    "blocks.1.hook_resid_pre",
)


def edited(value: Any, r: random.Random) -> Any:
    """A JSON value with something in it replaced, left out, moved or doubled."""
    if isinstance(value, dict) and value and r.random() < 0.9:
        key = r.choice(list(value))
        match r.randrange(6):
            case 0:
                return {k: v for k, v in value.items() if k != key}
            case 1:
                return value | {r.choice(("x", "__metadata__", key + "x")): value[key]}
            case 2:
                return value | {key: value[r.choice(list(value))]}
            case _:
                return value | {key: edited(value[key], r)}
    if isinstance(value, list) and value and r.random() < 0.7:
        at = r.randrange(len(value))
        return [*value[:at], edited(value[at], r), *value[at + 1 :]]
    return r.choice(VALUES)


def damaged(raw: bytes, others: list[bytes], r: random.Random, inside: bool = False) -> bytes:
    """`raw` after one to three damages."""
    for _ in range(r.randint(1, 3)):
        raw = _damage(raw, others, r, inside)
    return raw


def _damage(raw: bytes, others: list[bytes], r: random.Random, inside: bool) -> bytes:
    n = len(raw)
    if n == 0:
        return r.choice(others)[: r.randint(1, 99)]
    at = r.randrange(n if r.random() < 0.4 else min(n, 400))
    match r.randrange(10):
        case 0:
            out = bytearray(raw)
            for _ in range(r.randint(1, 40)):
                out[r.randrange(n)] = r.randrange(256)
            return bytes(out)
        case 1:
            return raw[:at] + bytes([raw[at] ^ 1 << r.randrange(8)]) + raw[at + 1 :]
        case 2:
            return raw[: r.randrange(n)]
        case 3:
            return raw[:at] + raw[at + r.randint(1, 64) :]
        case 4:
            return raw[:at] + raw[at : at + r.randint(1, 200)] * r.randint(2, 30) + raw[at:]
        case 5:
            other = r.choice(others)
            cut = r.randrange(len(other) + 1)
            return (
                raw[:at]
                + other[cut : cut + r.choice((8, 64, 1000, len(other)))]
                + raw[at:][r.choice((0, 64)) :]
            )
        case 6 | 7:
            form = r.choice(["<B", "<H", "<I", "<Q", ">I"])
            width = struct.calcsize(form)
            value = struct.pack(form, r.choice(EDGES) % 2 ** (8 * width))
            return raw[:at] + value + raw[at + width :]
    return _within(raw, others, r, inside)


def _within(raw: bytes, others: list[bytes], r: random.Random, inside: bool) -> bytes:
    """A damage that leaves the form whole: JSON edited, a safetensors header or a part of a zip
    changed."""
    if raw[:2] == b"PK" and not inside:
        try:
            members = parts(raw)
        except Exception:  # noqa: BLE001 - it is damaged already
            return raw[::-1]
        if not members:
            return raw
        name = r.choice(list(members))
        match r.randrange(6):
            case 0:
                members = {k: v for k, v in members.items() if k != name}
            case 1:
                members[r.choice(("data.pkl", "cfg.json", "x.npy", "a/b/c", name + "x"))] = members[
                    name
                ]
            case _:
                members[name] = damaged(members[name], others, r, inside=True)
        return zipped(members, r.choice((0, 0, 8)))
    head, body, length = raw, b"", None
    if len(raw) > 9 and raw[8:9] == b"{":
        length = int.from_bytes(raw[:8], "little")
        head, body = raw[8 : 8 + length], raw[8 + length :]
    try:
        value = edited(json.loads(head), r)
        text = json.dumps(value, allow_nan=True).encode()
    except (ValueError, RecursionError):
        return raw + raw
    return text if length is None else struct.pack("<Q", len(text)) + text + body


def mutations(seeds: list[Case], seed: int) -> Iterator[tuple[int, Case]]:
    """(number, file), the same for the same seed; files of good seeds more often than of bad
    ones."""
    files = [case for case in seeds if isinstance(case.raw, bytes) and len(case.raw) < MB]
    raws = [case.raw for case in files if isinstance(case.raw, bytes)]
    sound = [case for case in files if case.says is None]
    number = 0
    while True:
        r = random.Random(f"{seed}/{number}")
        base = r.choice(sound if r.random() < 0.7 else files)
        assert isinstance(base.raw, bytes)
        yield (
            number,
            Case(
                base.reader, f"m{number}{Path(base.name).suffix}", damaged(base.raw, raws, r), None
            ),
        )
        number += 1


def digest(case: Case, path: Path) -> str:
    """Of a file's bytes and its ending; of a vast one by its size."""
    if isinstance(case.raw, bytes):
        return hashlib.sha256(case.raw).hexdigest() + path.suffix
    return f"{path.is_dir()} {path.stat().st_size if path.is_file() else case.name} {path.suffix}"


def fuzz(
    seconds: float,
    seed: int = 0,
    keep: Path | None = None,
    readers: Readers = READERS,
    cases: Callable[[Path, Path], list[Case]] = corpus,
    limit_s: float = LIMIT_S,
) -> dict[str, Any]:
    """Read the corpus, then mutations until `seconds` are over: counts, highest memory by reader,
    faults."""
    start, faults = time.monotonic(), []
    counts, grown, seen = (
        Counter[str](),
        Counter[str](),
        {"generated": set[str](), "mutated": set[str]()},
    )
    longest = 0.0
    with tempfile.TemporaryDirectory(prefix="stitchlens-fuzz-") as scratch:
        tmp = Path(scratch)
        canary = tmp / "CANARY"
        sound, bad = good(tmp), cases(tmp, canary)
        for case in sound:
            (tmp / "good" / case.reader).mkdir(parents=True, exist_ok=True)
        warm = [
            (case.reader, str(case.put(tmp / "good" / case.reader)))
            for case in sound
            if case.reader in readers
        ]
        worker = Worker(readers, warm, limit_s)
        more = mutations([*sound, *bad], seed)
        bar = tqdm(
            total=len(bad) + len(warm), desc="corpus", unit="file", disable=not sys.stderr.isatty()
        )

        def one(kind: str, number: int, case: Case) -> None:
            nonlocal longest
            folder = tmp / kind / case.reader
            folder.mkdir(parents=True, exist_ok=True)
            path = case.put(folder)
            seen[kind].add(digest(case, path))
            outcome, said, took, memory = worker.read(case.reader, path)
            counts[kind] += 1
            counts[f"{kind} {outcome}"] += 1
            grown[case.reader] = max(grown[case.reader], memory)
            longest = max(longest, took)
            why = at_fault(case, outcome, said, memory, readers[case.reader][1])
            if why is None and canary.exists():
                why = "the canary is there: a payload ran"
            if why is not None:
                faults.append(
                    {
                        "file": case.name,
                        "reader": case.reader,
                        "seed": seed,
                        "number": number,
                        "why": why,
                    }
                )
                if keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    if isinstance(case.raw, bytes):
                        (keep / f"{seed}-{kind}-{case.reader}-{case.name}").write_bytes(case.raw)
                    with (keep / "faults.jsonl").open("a") as f:
                        f.write(json.dumps(faults[-1]) + "\n")
            if path.is_file():
                path.unlink()

        try:
            for number, case in enumerate(bad):
                one("generated", number, case)
                bar.update()
            for reader, path in warm:  # what is good is still accepted, by the same process
                outcome, said, *_ = worker.read(reader, Path(path))
                if outcome != "accepted":
                    faults.append(
                        {
                            "file": Path(path).name,
                            "reader": reader,
                            "why": f"a good file was {outcome}: {said}",
                        }
                    )
                bar.update()
            begun = time.monotonic()
            bar.reset(total=round(seconds))
            bar.set_description("mutations")
            bar.unit = "s"
            while time.monotonic() - begun < seconds:
                one("mutated", *next(more))
                bar.update(min(time.monotonic() - begun, seconds) - bar.n)
        finally:
            bar.close()
            worker.stop()
        ran = canary.exists()
    return {
        "seed": seed,
        "seconds": round(time.monotonic() - start, 1),
        "counts": dict(counts),
        "distinct": {kind: len(files) for kind, files in seen.items()},
        "longest_s": round(longest, 2),
        "memory": {
            reader: {"grown": grown[reader], "limit": limit}
            for reader, (_, limit) in readers.items()
        },
        "canary": ran,
        "faults": faults,
    }


def lines(found: dict[str, Any]) -> list[Line]:
    """What was measured, beside its targets."""
    counts, distinct = found["counts"], found["distinct"]

    def outcomes(kind: str) -> str:
        words = ("refused", "accepted")
        return ", ".join(f"{counts.get(f'{kind} {word}', 0):,} {word}" for word in words)

    def failed(how: str) -> int:
        return sum(counts.get(f"{kind} {how}", 0) for kind in distinct)

    generated, mutated = distinct.get("generated", 0), distinct.get("mutated", 0)
    return [
        Line(
            "bad files, one fault each, distinct",
            generated,
            at_least=LEAST,
            note=outcomes("generated"),
        ),
        Line(
            "of them accepted",
            counts.get("generated accepted", 0),
            at_most=0,
        ),
        Line(
            "files damaged by chance",
            counts.get("mutated", 0),
            note=f"{mutated:,} distinct, {outcomes('mutated')}",
        ),
        Line("tracebacks", failed("traceback"), at_most=0),
        Line(f"hangs over {LIMIT_S:g} s", failed("hang"), at_most=0),
        Line("longest", found["longest_s"], "s", at_most=LIMIT_S),
        *(
            Line(
                f"memory, {reader}",
                grown["grown"] / MB,
                "MB",
                at_most=2 * grown["limit"] / MB,
                note="target: twice the limit",
            )
            for reader, grown in found["memory"].items()
        ),
        Line("pickled payloads that ran", int(found["canary"]), at_most=0),
        Line("files at fault", len(found["faults"]), at_most=0),
    ]


def missed(found: dict[str, Any]) -> bool:
    return bool(found["faults"]) or found["canary"] or found["distinct"]["generated"] < LEAST


def main() -> int:
    p = Benchmark(
        "fuzz",
        (__doc__ or "").split("\n", 1)[0],
        command="make fuzz SECONDS=1800",
        documented={"seconds": 1800},
    )
    p.add("--seconds", type=float, default=60, help="of damaging files by chance")
    p.add("--seed", type=int, default=0, help="of the damage")
    p.add("--keep", type=Path, help="folder for files that fail")
    args = p.options()
    found = fuzz(args.seconds, args.seed, args.keep)
    p.show("fuzz: bad and damaged files against every reader", {}, lines(found))
    for fault in found["faults"][:20]:
        print(f"FAULT {fault['reader']} {fault['file']}: {fault['why']}", file=sys.stderr)
    return int(missed(found))


if __name__ == "__main__":
    sys.exit(main())
