"""Sources become lanes, lanes stream for both models, and everything a person may get wrong is said
in a sentence."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader

from core.bench import open_pair
from core.config import check
from core.errors import StitchLensError
from core.steering.files import export, load_vector, save_vector
from core.steering.generate import Written
from core.steering.keys import LaneKey, lane_key
from core.steering.settings import Sampling, Setting
from core.steering.sources import Concept, Language, source_from
from core.steering.studio import Studio, run_record
from core.steering.vectors import Means, random_like
from core.workspace.places import PROJECT
from core.workspace.store import Workspace

SHORT = Sampling(tokens=8, seed=3)
PROMPT = "The house of my mother is"
LANES = ["b:none", "b:own", "b:transferred", "a:none", "a:own", "a:transferred"]


@pytest.fixture(scope="module")
def studio(nano_home: Path) -> Studio:
    return Studio(open_pair("nano"), "L2-L3")


def ran(
    studio: Studio, source: Any, lanes: list[str], setting: Setting | None = None, **kwargs: Any
) -> dict[str, Written]:
    out: dict[LaneKey, Written] = {}
    for step in studio.run(
        source, [lane_key(x) for x in lanes], PROMPT, setting or Setting(), SHORT, **kwargs
    ):
        out = step
    return {str(key): w for key, w in out.items()}


def test_six_lanes_stream_and_are_judged(studio: Studio) -> None:
    source, keys = studio.directions(Language("fr")), [lane_key(x) for x in LANES]
    seen: list[dict[LaneKey, int]] = []
    written: dict[LaneKey, Written] = {}
    for written in studio.run(source, keys, PROMPT, Setting(strength=1.5), SHORT):
        seen.append({key: len(w.ids) for key, w in written.items()})
    assert [sum(x.values()) for x in seen] == sorted(sum(x.values()) for x in seen)
    assert list(written) == keys and set(seen[0].values()) == {1}
    assert len({w.text for w in written.values()}) >= 5
    judged = studio.judge(PROMPT, written)
    record = json.loads(
        json.dumps(run_record(studio, Language("fr"), PROMPT, Setting(), SHORT, written, judged))
    )
    assert [lane["lane"] for lane in record["lanes"]] == LANES
    for lane in record["lanes"]:
        assert lane["loss"] > 0 and 0 <= lane["repetition"] <= 1 and lane["tokens"] == 8
    for lane in LANES:
        assert (
            ran(studio, source, [lane], Setting(strength=1.5))[lane].ids
            == written[lane_key(lane)].ids
        ), "alone"


def test_a_carried_vector_is_like_the_models_own(studio: Studio) -> None:
    """The science: through the stitch a language's direction arrives near the one that B learns; a
    control does not."""
    source, setting = studio.directions(Language("fr")), Setting()
    own, carried, shuffled, drawn = (
        studio.vectors(source, LaneKey("b", kind), setting)[0]
        for kind in ("own", "transferred", "shuffled", "random")
    )
    assert float(own.v @ carried.v) > 0.7
    assert abs(float(own.v @ shuffled.v)) < 0.6 and abs(float(own.v @ drawn.v)) < 0.3
    found = source.means("b", studio.stitched("b"))
    assert isinstance(found, Means)
    assert carried.mean == pytest.approx(float(found.positive @ carried.v), rel=1e-4), "z̄ is B's"
    assert studio.vectors(source, LaneKey("b", "none"), setting) == ()


def test_a_range_of_layers_takes_its_own_means(studio: Studio) -> None:
    source = studio.directions(Language("nl"))
    own = studio.vectors(source, LaneKey("b", "own"), Setting(layers_b=(3, 5)))
    carried = studio.vectors(source, LaneKey("b", "transferred"), Setting(layers_b=(3, 5)))
    assert [v.layer for v in own] == [v.layer for v in carried] == [3, 4, 5]
    assert torch.equal(carried[0].v, carried[2].v) and not torch.equal(own[0].v, own[2].v)
    assert len({v.mean for v in carried}) == 3


def test_two_texts_make_a_concept(studio: Studio) -> None:
    source = studio.directions(
        Concept("I love this.\nHow wonderful.", "I hate this.\nHow terrible.")
    )
    assert (
        len({w.text for w in ran(studio, source, ["b:none", "b:own", "b:transferred"]).values()})
        == 3
    )


def test_a_source_knows_its_lanes(studio: Studio, tmp_path: Path) -> None:
    vector = studio.vectors(
        studio.directions(source_from("lang:fr")), LaneKey("b", "own"), Setting()
    )[0]
    export(vector, studio.spec("b"), "", tmp_path / "v.safetensors")
    for text, own in (
        ("lang:fr", "ab"),
        ("feature:L2-1024/3", "a"),
        (f"file:{tmp_path / 'v.safetensors'}", "b"),
    ):
        source = studio.directions(source_from(text))
        for side, other in (("a", "b"), ("b", "a")):
            for kind, needs in (
                ("own", side),
                ("transferred", other),
                ("random", other),
                ("shuffled", other),
            ):
                key = LaneKey(side, kind)  # type: ignore[arg-type]
                assert source.has(key) == (needs in own)
                if not source.has(key):
                    with pytest.raises(StitchLensError):
                        studio.vectors(source, key, Setting())
            assert source.has(LaneKey(side, "none"))  # type: ignore[arg-type]


def test_an_sae_feature_steers_both_models(studio: Studio) -> None:
    table = studio.bench.workspace.table("features/L2-1024")
    index = int(table.loc[table.density_b > 0.01].feature.iloc[0])
    source = studio.directions(source_from(f"feature:L2-1024/{index}"))
    own = studio.vectors(source, LaneKey("a", "own"), Setting())[0]
    assert own.mean > own.base, "it is larger where the feature is active"
    carried = studio.vectors(source, LaneKey("b", "transferred"), Setting())[0]
    assert carried.mean > carried.base
    for lane in ("b:own", "a:transferred"):
        with pytest.raises(StitchLensError, match="an SAE of A"):
            ran(studio, source, [lane])


@pytest.mark.parametrize("ending", ["safetensors", "gguf", "json"])
def test_exports_read_back(studio: Studio, tmp_path: Path, ending: str) -> None:
    (vector,) = studio.vectors(
        studio.directions(Language("fr")), LaneKey("b", "transferred"), Setting()
    )
    path = tmp_path / f"french.{ending}"
    export(vector, studio.bench.pair.b, "French", path)
    match ending:
        case "safetensors":
            assert torch.equal(load_vector(path).v, vector.v)
            assert load_vector(path).makers["stitch"]["layer_a"] == 2
        case "gguf":
            (tensor,) = GGUFReader(path).tensors
            v = torch.from_numpy(tensor.data.copy())
            assert (
                torch.allclose(v / v.norm(), vector.v, atol=1e-5) and tensor.name == "direction.2"
            )
            about = json.loads(path.with_suffix(".gguf.json").read_text())
            assert about["mean"] == vector.mean and about["layer"] == 3
        case _:
            assert json.loads(path.read_text())["layerNumber"] == 3
    assert not list(tmp_path.glob(".*")), "nothing is left beside"


def test_a_vector_on_file_steers_where_it_came_from_and_beyond(
    studio: Studio, tmp_path: Path
) -> None:
    (vector,) = studio.vectors(studio.directions(Language("fr")), LaneKey("a", "own"), Setting())
    path = tmp_path / "french.safetensors"
    save_vector(vector, path)
    source = studio.directions(source_from(f"file:{path}"))
    assert (
        ran(studio, source, ["a:own"])["a:own"].ids
        == ran(studio, studio.directions(Language("fr")), ["a:own"])["a:own"].ids
    )
    (carried,) = studio.vectors(source, LaneKey("b", "transferred"), Setting())
    (wanted,) = studio.vectors(
        studio.directions(Language("fr")), LaneKey("b", "transferred"), Setting()
    )
    assert torch.allclose(carried.v, wanted.v, atol=1e-5)
    assert carried.mean - carried.base == pytest.approx(wanted.mean - wanted.base, rel=0.5), (
        "z̄ through the stitch"
    )
    with pytest.raises(StitchLensError, match="one of B's own"):
        ran(studio, source, ["b:own"])
    found = studio.directions(Language("fr")).means("a", 2)
    save_vector(random_like(vector, found), path)
    with pytest.raises(StitchLensError, match="no named model"):
        studio.directions(source_from(f"file:{path}"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lang:xx", "no text in xx"),
        ("lang:en", "another language"),
        ("lang:", "no text in"),
        ("feature:L2-1024/99999", "0 to 1023"),
        ("feature:nothing/3", "no 'saes/nothing'"),
        ("feature:7", "no 'saes/'"),
        ("feature:L2-1024/x", "SAE/INDEX"),
        ("file:/nowhere.safetensors", "unreadable"),
        ("concept:one.txt", "give both"),
        ("concept:one.txt,two.txt", "unreadable"),
        ("words", "lang:"),
    ],
)
def test_bad_sources_are_said(studio: Studio, text: str, says: str) -> None:
    with pytest.raises(StitchLensError) as e:
        ran(studio, studio.directions(source_from(text)), ["b:own"])
    assert says in str(e.value)


@pytest.mark.parametrize(
    ("plus", "minus", "says"),
    [
        ("", "a", "empty positive"),
        ("a", " \n ", "empty negative"),
        ("same", "same", "the same text in both boxes"),
    ],
)
def test_bad_concepts_are_said(studio: Studio, plus: str, minus: str, says: str) -> None:
    with pytest.raises(StitchLensError, match=says):
        studio.directions(Concept(plus, minus))


def test_bad_lanes_layers_and_strengths_are_said(studio: Studio) -> None:
    for text in ("c:own", "b", "b:mine", "", "own:b"):
        with pytest.raises(StitchLensError, match="such as b:transferred"):
            lane_key(text)
    with pytest.raises(StitchLensError, match="layers 3 to 99 of B"):
        ran(studio, studio.directions(Language("fr")), ["b:own"], Setting(layers_b=(3, 99)))
    for strength in (1e9, float("nan"), float("inf")):
        with pytest.raises(StitchLensError, match="strength"):
            check(Setting, strength=strength)
    with pytest.raises(StitchLensError, match="tokens"):
        check(Sampling, tokens=0)


def test_a_workspace_without_means_says_what_makes_them(
    nano_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench = open_pair("nano")
    bench.__dict__["workspace"] = Workspace("nano", PROJECT / "tests" / "nowhere")
    with pytest.raises(StitchLensError, match="steer eval nano"):
        Studio(bench, "L2-L3").means("b")


def test_four_at_once_are_four_one_by_one(studio: Studio) -> None:
    source, found, places = (
        studio.directions(Language("fr")),
        dict[int, dict[str, Written]](),
        list[int](),
    )
    settings = [Setting(strength=0.5 * k) for k in range(4)]

    def write(k: int) -> None:
        found[k] = ran(
            studio, source, ["b:none", "b:transferred", "a:own"], settings[k], waiting=places.append
        )

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(places, default=0) >= 1, "somebody waited and was told how many were before"
    for k in range(4):
        alone = ran(studio, source, ["b:none", "b:transferred", "a:own"], settings[k])
        assert {lane: w.ids for lane, w in found[k].items()} == {
            lane: w.ids for lane, w in alone.items()
        }


def test_a_stream_that_is_dropped_gives_the_turn_back(studio: Studio) -> None:
    stream = studio.run(
        studio.directions(Language("fr")), [lane_key("b:own")], PROMPT, Setting(), SHORT
    )
    next(stream)
    stream.close()
    stopped = ran(studio, studio.directions(Language("fr")), ["b:own"], stop=lambda: True)
    assert stopped == {}
    with pytest.raises(StitchLensError, match="an empty prompt"):
        next(
            studio.run(studio.directions(Language("fr")), [lane_key("b:own")], "", Setting(), SHORT)
        )
    assert len(ran(studio, studio.directions(Language("fr")), ["b:own"])["b:own"].ids) == 8


PLUS = "What a wonderful day this was.\nI love this film.\nEverything went very well.\n"
MINUS = "What a terrible day this was.\nI hate this film.\nEverything went badly.\n"


def test_a_concept_is_the_same_however_its_files_were_saved(studio: Studio, tmp_path: Path) -> None:
    """A byte order mark or Windows line ends in one file turned the vector (cosine 0.84)."""

    def vector(raw: bytes) -> torch.Tensor:
        (tmp_path / "plus.txt").write_bytes(raw)
        (tmp_path / "minus.txt").write_text(MINUS, "utf-8", newline="\n")
        source = studio.directions(
            source_from(f"concept:{tmp_path / 'plus.txt'},{tmp_path / 'minus.txt'}")
        )
        return source.own("b", 3).v

    expected = vector(PLUS.encode())
    for text, encoding in (
        (PLUS.replace("\n", "\r\n"), "utf-8"),
        (PLUS.replace("\n", "\r"), "utf-8"),
        (PLUS, "utf-8-sig"),
        (PLUS.replace("\n", "\r\n\r\n"), "utf-16"),
    ):
        assert torch.equal(vector(text.encode(encoding)), expected)
    with pytest.raises(StitchLensError, match="the same text in both boxes"):
        vector(MINUS.replace("\n", "\r\n").encode("utf-8-sig"))
    with pytest.raises(StitchLensError, match=r"plus\.txt not in UTF-8.*cp1252"):
        vector("un café très cher\n".encode("latin-1") * 9)
    assert not torch.equal(vector(PLUS.replace("\n", "\u2028").encode()), expected), (
        "U+2028 ends no line"
    )


def test_a_long_concept_is_cut_at_the_same_sentence(studio: Studio) -> None:
    long = "".join(f"Sentence {k} of many that are all alike.\n" for k in range(300))
    one, other = (
        studio.directions(Concept(text, MINUS)).own("b", 3).v
        for text in (long, long.replace("\n", "\r\n"))
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("prompt", ["cut \ud83d here", "a\0b", "caf\udce9 is", "one\r\ntwo"])
def test_a_prompt_that_no_text_can_hold(studio: Studio, prompt: str) -> None:
    steps = list(
        studio.run(
            studio.directions(Language("fr")),
            [lane_key("b:none")],
            prompt,
            Setting(),
            Sampling(tokens=2),
        )
    )
    assert studio.judge(prompt, steps[-1])[lane_key("b:none")].loss > 0
    source = studio.directions(Concept(f"Praise {prompt}", MINUS))
    assert torch.isfinite(source.own("b", 3).v).all()
