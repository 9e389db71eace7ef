"""A demonstration does what its bounds say and no more, whoever asks and however."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import jobs
from core.bench import open_pair
from core.errors import StitchLensError
from core.models.pairs import get_pair
from core.models.prospect import prospect, register
from core.probes.labelled import labelled
from core.probes.labels import own_labels
from core.probes.prober import Prober
from core.steering.crossing import TextCrossing
from core.steering.keys import LaneKey
from core.steering.settings import Sampling, Setting
from core.steering.sources import Concept, ConceptFiles, Language, VectorFile
from core.steering.studio import Studio
from core.workspace import demonstration, uploads
from core.workspace.demonstration import Bounds, Gate
from core.workspace.places import user_cache
from core.workspace.store import Workspace

PROMPT = "The best way to keep bread fresh is"
LANES = (LaneKey("b", "none"), LaneKey("b", "transferred"))


@pytest.fixture(autouse=True)
def _one_visitor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Who comes is fresh and nameless; other tests find no demonstration."""
    monkeypatch.setattr(demonstration, "_WHO", [])
    demonstration.GATE.forget()
    yield
    demonstration.GATE.forget()


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A demonstration, in which nothing is written by the time the test is over."""
    models = user_cache() / "models"
    monkeypatch.setenv("STITCHLENS_CACHE", str(tmp_path / "cache"))
    models.mkdir(parents=True, exist_ok=True)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "models").symlink_to(models)
    monkeypatch.setenv("STITCHLENS_DEMO", "1")
    before = written(tmp_path)
    yield
    assert written(tmp_path) == before


def written(folder: Path) -> set[Path]:
    """Files; but for what an app notes of its own models when it first opens them."""
    own = {folder / "cache" / name for name in ("models", "hashes")}
    return {path for path in folder.rglob("*") if not own & {path, *path.parents}}


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture(scope="module")
def crossing() -> TextCrossing:
    return TextCrossing(Studio(open_pair("nano"), "L2-L3"))


# the switch and the bounds


@pytest.mark.parametrize(
    ("value", "on"),
    [("1", True), ("true", True), ("anything", True), ("", False), ("0", False), (" No ", False)],
)
def test_the_switch(monkeypatch: pytest.MonkeyPatch, value: str, on: bool) -> None:
    monkeypatch.setenv("STITCHLENS_DEMO", value)
    assert demonstration.active() is on


def test_without_it_nothing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STITCHLENS_DEMO", raising=False)
    for _ in range(300):
        demonstration.admit("x" * 10**6, tokens=10**6)
    demonstration.refuse("a job")
    assert demonstration.at_most(400, 4) == 400


def test_bounds_are_read_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHLENS_DEMO", "1")
    monkeypatch.setenv("STITCHLENS_DEMO_TOKENS", "80")
    assert demonstration.bounds() == Bounds(tokens=80)
    assert demonstration.at_most(400, 4) == 20
    monkeypatch.setenv("STITCHLENS_DEMO_TOKENS", "8")
    assert demonstration.at_most(400, 4) == 2
    assert "8 tokens" in demonstration.in_words()


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "many", "1.5", "1e9999"])
@pytest.mark.parametrize("name", demonstration.VARIABLES.values())
def test_a_bound_that_cannot_be_read_is_not_taken_for_none(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("STITCHLENS_DEMO", "1")
    monkeypatch.setenv(name, value)
    with pytest.raises(StitchLensError):
        demonstration.admit("a few words")


# how often


def test_a_browser_starts_so_many_runs_a_minute() -> None:
    """However often Go is pressed; and no longer than a minute later it may again."""
    clock = Clock()
    gate = Gate(clock)
    bounds = Bounds(runs=3, runs_of_all=100, texts=100)
    for clock.seconds in (0.0, 10.0, 20.0):
        gate.admit("one", bounds)
    for clock.seconds in (20.1, 30.0, 59.9):
        with pytest.raises(StitchLensError, match="browser within a minute"):
            gate.admit("one", bounds)
    clock.seconds = 60.0
    gate.admit("one", bounds)
    with pytest.raises(StitchLensError, match="wait 10 s"):
        gate.admit("one", bounds)


def test_what_was_refused_is_not_counted() -> None:
    """Else who presses on and on would never be let in."""
    ticks = itertools.count()
    gate = Gate(lambda: float(next(ticks)))
    admitted = 0
    for _ in range(600):
        try:
            gate.admit("one", Bounds(runs=5))
            admitted += 1
        except StitchLensError:
            pass
    assert admitted == 5 * 600 / 60


def test_two_browsers_do_not_share_a_count_and_all_share_one() -> None:
    gate = Gate(lambda: 0.0)
    bounds = Bounds(runs=2, runs_of_all=5)
    for visitor in ("one", "two"):
        for _ in range(2):
            gate.admit(visitor, bounds)
        with pytest.raises(StitchLensError, match="this browser"):
            gate.admit(visitor, bounds)
    gate.admit("three", bounds)
    with pytest.raises(StitchLensError, match="all visitors"):
        gate.admit("four", bounds)


def test_a_new_name_for_every_run_gets_no_further() -> None:
    """A visitor may forget the cookie; the whole server's bound holds, and so does its memory."""
    clock = Clock()
    gate = Gate(clock)
    admitted = 0
    for k in range(6_000):
        clock.seconds = k / 10
        try:
            gate.admit(f"visitor {k}", Bounds(runs_of_all=30))
            admitted += 1
        except StitchLensError:
            pass
    assert admitted <= 30 * (6_000 / 600 + 1)
    clock.seconds += demonstration.DAY
    gate.admit("last", Bounds())
    assert len(gate._runs) == 1


def test_a_browser_has_so_many_texts_a_day() -> None:
    clock = Clock()
    gate = Gate(clock)
    for k in range(4):
        clock.seconds = 100.0 * k
        gate.admit("one", Bounds(texts=4))
    with pytest.raises(StitchLensError, match="wait 24 h"):
        gate.admit("one", Bounds(texts=4))
    gate.admit("two", Bounds(texts=4))
    clock.seconds = demonstration.DAY
    gate.admit("one", Bounds(texts=4))


def test_visitors_are_told_apart_by_who_is_asked(
    demo: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STITCHLENS_DEMO_RUNS", "1")
    for visitor in ("one", "two"):
        demonstration.visitors(lambda visitor=visitor: visitor)
        demonstration.admit("a text")
        with pytest.raises(StitchLensError, match="browser"):
            demonstration.admit("a text")


# how much


def spoken(crossing: TextCrossing, prompt: str, tokens: int) -> list[int]:
    """Tokens of each lane."""
    lanes = crossing.lanes(("a", "b"), "a_to_b", all_tokens=True)
    *_, last = crossing.speak(prompt, lanes, Sampling(tokens=tokens))
    return [len(written.ids) for written in last.values()]


def steered(studio: Studio, prompt: str, tokens: int) -> list[int]:
    source = studio.directions(Language("fr"))
    *_, last = studio.run(source, LANES, prompt, Setting(), Sampling(tokens=tokens))
    return [len(written.ids) for written in last.values()]


@pytest.mark.parametrize("run", ["speak", "steer"])
def test_a_run_writes_so_many_tokens(
    run: str, demo: None, crossing: TextCrossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All lanes together; asked for by hand, past every field of a page."""
    monkeypatch.setenv("STITCHLENS_DEMO_TOKENS", "8")

    def write(prompt: str, tokens: int) -> list[int]:
        if run == "speak":
            return spoken(crossing, prompt, tokens)
        return steered(crossing.studio, prompt, tokens)

    assert max(write(PROMPT, 4)) == 4
    for tokens in (5, 60, 1000):
        with pytest.raises(StitchLensError, match="tokens to write in all lanes"):
            write(PROMPT, tokens)
    with pytest.raises(StitchLensError, match="characters of text"):
        write("bread " * 10_000, 4)


def test_reading_is_bounded_too(
    demo: None, crossing: TextCrossing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STITCHLENS_DEMO_RUNS", "2")
    with pytest.raises(StitchLensError, match="characters of text"):
        crossing.read("bread " * 10_000)
    with pytest.raises(StitchLensError, match="characters of text"):
        crossing.lens("bread " * 10_000)
    crossing.read("Bread is kept in a box.")
    crossing.lens("Bread is kept in a box.")
    with pytest.raises(StitchLensError, match="within a minute"):
        crossing.read("Bread is kept in a box.")


def test_features_and_heads_read_within_bounds(demo: None) -> None:
    from core.features.measure import Live
    from core.functional.live import Live as Heads

    pair = get_pair("nano")
    long = "bread " * 10_000
    with pytest.raises(StitchLensError, match="characters of text"):
        Live(pair, "L2-1024").read(long)
    with pytest.raises(StitchLensError, match="characters of text"):
        Heads(pair, "L2-1024").attend(long, "a", 0, 3, 0)


def test_texts_of_a_concept_and_labels_are_bounded(demo: None, crossing: TextCrossing) -> None:
    with pytest.raises(StitchLensError, match="characters of text"):
        crossing.studio.directions(Concept("good\n" * 2_000, "bad\n"))
    rows = [(f"text {k} " * 40, "yes" if k % 2 else "no") for k in range(40)]
    prober = Prober(open_pair("nano"), "L2-1024", "L2-L3")
    with pytest.raises(StitchLensError, match="characters of text"):
        own_labels(prober, labelled(rows))


def test_nan_is_no_number_of_tokens() -> None:
    with pytest.raises(ValueError, match="tokens"):
        Sampling.model_validate({"tokens": float("nan")})


# what it does not do


def test_no_job_starts(demo: None) -> None:
    for command, options in (
        ("build", {}),
        ("svcca", {}),
        ("stitch fit", {"layer_a": 2, "layer_b": 3, "name": "mine"}),
        ("sae import", {"sae": "some.zip", "name": "mine"}),
    ):
        with pytest.raises(StitchLensError, match="a job asked of a demonstration"):
            jobs.start("nano", command, **options)  # pyright: ignore[reportArgumentType]
    with pytest.raises(StitchLensError, match="a job asked of a demonstration"):
        jobs.run("nano", ("--help",), "Help")
    assert jobs.jobs("nano") == []


def test_nothing_is_kept(demo: None, tmp_path: Path) -> None:
    with pytest.raises(StitchLensError, match="an upload"):
        uploads.uploaded("vector.npz", b"0" * 100)
    for ws in (
        Workspace("nano", tmp_path / "workspaces"),
        Workspace("nano", private=tmp_path / "private"),
    ):
        with pytest.raises(StitchLensError, match="a change of the workspace"):
            ws.put_record("mine", {}, {})
        with pytest.raises(StitchLensError, match="a change of the workspace"):
            ws.remove("stitches/L2-L3")


def test_no_folder_of_the_machine_is_read(
    demo: None, crossing: TextCrossing, tmp_path: Path
) -> None:
    with pytest.raises(StitchLensError, match="a model asked"):
        prospect("/", str(tmp_path))
    with pytest.raises(StitchLensError, match="a new pair"):
        register(get_pair("nano"))
    for source in (VectorFile("/etc/hosts"), ConceptFiles("/etc/hosts", "/etc/passwd")):
        with pytest.raises(StitchLensError, match="a file of this machine"):
            crossing.studio.directions(source)
