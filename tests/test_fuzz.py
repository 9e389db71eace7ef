"""The corpus of bad files, read in this process; the program that fuzzes sees each way in which a
reader may fail."""

import itertools
import os
import time
from pathlib import Path

import pytest

from core.errors import StitchLensError
from tests.helpers import fuzz
from tests.helpers.malformed import READERS, Case, corpus, good


def test_every_bad_file_is_refused_with_a_sentence_that_names_its_fault(tmp_path: Path) -> None:
    canary = tmp_path / "CANARY"
    distinct, wrong = set[str](), list[str]()
    for case in corpus(tmp_path, canary):
        (tmp_path / case.reader).mkdir(exist_ok=True)
        path = case.put(tmp_path / case.reader)
        distinct.add(fuzz.digest(case, path))
        why = fuzz.at_fault(case, *fuzz.attempt(READERS[case.reader][0], path), 0, 1)
        wrong += [f"{case.reader} {case.name}: {why}"] if why else []
        if path.is_file():
            path.unlink()
    assert not wrong, "\n".join(wrong)
    assert len(distinct) >= fuzz.LEAST
    assert not canary.exists()


def test_good_files_are_accepted_and_damaged_ones_read_or_refused(tmp_path: Path) -> None:
    sound = good(tmp_path)
    for case in sound:
        assert fuzz.attempt(READERS[case.reader][0], case.put(tmp_path)) == (
            "accepted",
            "",
        ), case.name
    outcomes = set[str]()
    for number, case in itertools.islice(fuzz.mutations(sound, seed=7), 300):
        outcome, said = fuzz.attempt(READERS[case.reader][0], case.put(tmp_path))
        assert fuzz.at_fault(case, outcome, said, 0, 1) is None, (number, case.name, said)
        outcomes.add(outcome)
    assert outcomes == {"accepted", "refused"}


def test_a_seed_makes_the_same_files(tmp_path: Path) -> None:
    sound = good(tmp_path)
    first, again, other = (
        [c.raw for _, c in itertools.islice(fuzz.mutations(sound, s), 50)] for s in (3, 3, 4)
    )
    assert first == again != other


def hangs(path: Path) -> bool:
    end = time.perf_counter() + 60
    while time.perf_counter() < end:  # at work, not asleep: who waits is given more time
        pass
    return True


def dies(path: Path) -> bool:
    os._exit(3)


def raises(path: Path) -> bool:
    raise ValueError("not ours")


def grows(path: Path) -> bool:
    held = bytearray(os.urandom(1000) * 40_000)
    raise StitchLensError(f"{len(held)} bytes", "fewer", "do not read it")


def mumbles(path: Path) -> bool:
    raise StitchLensError("something", "something else", "try again")


def accepts(path: Path) -> bool:
    return True


def runs(path: Path) -> bool:
    Path(path.read_text()).touch()
    raise StitchLensError("the fault", "none", "do not")


def refuses(path: Path) -> bool:
    raise StitchLensError("the fault", "none", "do not")


CONTROLS = {
    "hangs": (hangs, "no answer"),
    "dies": (dies, "died"),
    "raises": (raises, "ValueError: not ours"),
    "grows": (grows, "memory grew"),
    "mumbles": (mumbles, "does not name the fault"),
    "accepts": (accepts, "was accepted"),
    "refuses": (refuses, None),
    "runs": (runs, "canary"),
}


def planted(tmp: Path, canary: Path) -> list[Case]:
    return [
        Case(name, f"{name}.x", str(canary).encode(), "bytes" if name == "grows" else "the fault")
        for name in CONTROLS
    ]


@pytest.mark.timeout(600)
def test_each_way_to_fail_is_found(tmp_path: Path) -> None:
    readers = {name: (read, 10**7) for name, (read, _) in CONTROLS.items()}
    found = fuzz.fuzz(0, 0, tmp_path / "kept", readers, planted, limit_s=2)
    why = {fault["reader"]: fault["why"] for fault in found["faults"]}
    assert set(why) == set(CONTROLS) - {"refuses"}
    assert all(says in why[name] for name, (_, says) in CONTROLS.items() if says)
    assert fuzz.missed(found) and found["canary"]
    kept = {p.name for p in (tmp_path / "kept").iterdir()}
    assert kept == {"faults.jsonl", *(f"0-generated-{name}-{name}.x" for name in why)}
    at_fault = next(line for line in fuzz.lines(found) if line.what == "files at fault")
    assert at_fault.value == len(why) and at_fault.holds is False
