"""docs/performance.md shows what was kept of benchmarks, and a benchmark keeps only what the page
says that it ran."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _measure, harvest
from benchmarks._contenders import Pass
from benchmarks._measure import MEASURED, Benchmark, Line, aligned, benchmarks, read_records
from core.saes import tables as sae_tables
from core.workspace.places import PROJECT
from tests.helpers import performance

PAGE = performance.PERFORMANCE.read_text("utf-8")
KEYS = {
    *("format", "benchmark", "title", "command", "date", "commit", "machine", "load"),
    *("seconds", "versions", "dtype", "options", "settings", "rows", "table"),
}


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured here, so the machine may be at work."""
    monkeypatch.setattr(_measure, "REST", 0)


def small(documented: dict[str, Any] | None = None) -> Benchmark:
    one = Benchmark("small", "What a test measures.", documented=documented)
    one.add("--turns", type=int, default=3)
    one.add("--keep", type=Path)
    return one


def test_the_page_is_that_of_the_records() -> None:
    assert performance.with_measured(PAGE) == PAGE, "`make docs-results` writes it again"


def test_a_typed_figure_would_be_seen() -> None:
    table = next(m[0] for m in performance.MEASURED.finditer(PAGE) if m["name"] == "workspaces")
    figure = re.search(r"\| (0\.\d+) \|", table)
    assert figure is not None
    changed = PAGE.replace(table, table.replace(figure[0], "| 0.01 |", 1))
    assert changed != PAGE
    assert performance.with_measured(changed) == PAGE


def test_every_program_has_its_place() -> None:
    """Its record where there is one, and else its command among those that were not run."""
    places = [m["name"] for m in performance.MEASURED.finditer(PAGE)]
    assert sorted(places) == sorted([*performance.names(), "summary", "not-run", "workspaces"])
    absent = set(performance.names()) - read_records().keys()
    listed = performance.not_run(read_records())
    assert set(re.findall(r"^- (\w+): `", listed, re.MULTILINE)) == absent
    assert set(benchmarks()) >= {"harvest", "app", "stitch_fit"}


def test_typed_rows_are_of_programs_without_a_quiet_record() -> None:
    typed = PAGE.partition("## Typed by hand")[2]
    programs = set(re.findall(r"^\| (\w+) \|", typed, re.MULTILINE)) - {"program"}
    quiet = {name for name, record in read_records().items() if not performance.busy(record)}
    assert programs <= set(performance.names())
    assert not programs & quiet, "remove the typed rows of these: there is a record now"


def test_records_are_whole_and_name_no_place() -> None:
    for path in MEASURED.glob("*.json"):
        text = path.read_text("utf-8")
        record = json.loads(text)
        assert record.keys() == KEYS
        assert record["benchmark"] == path.stem
        assert record["benchmark"] in performance.names()
        assert not re.search(r"/(home|root|tmp|Users|work)/", text), path.name
        for row in record["rows"]:
            line = Line.from_row(row)
            assert line.holds is row["holds"]
            assert line.row() == row


def test_the_page_says_what_the_report_says() -> None:
    """Of each pair, read by itself."""
    for name in performance.PAIRS:
        measured = performance.reported(name)
        (trained,) = sae_tables.reported(measured).values()
        line = f"| ≤ 0.2 | {trained['whole_stitch_exact_of_adam']:.3g} | "
        assert f"{name}: FLOPs of a stitch" in PAGE
        assert line in PAGE
        (probed,) = measured["probes"].values()
        gap = -100 * probed["mean"]["dense_moved"]["0"]["gap"]
        row = next(x for x in PAGE.splitlines() if x.startswith(f"| {name}: dense probe moved"))
        assert f"| {gap:.3g} points | {'holds' if gap <= 5 else '**missed**'} |" in row


def test_a_median_has_its_range_and_is_what_is_judged() -> None:
    line = Line.median("speed", [3.0, 1.0, 2.0, 9.0, 2.5], "x", at_least=2.5)
    assert line.measured == "2.5 [1, 9] x"
    assert line.holds is True
    assert Line.median("speed", [3.0, 1.0, 2.0], "x", at_least=2.5).holds is False
    assert Line("memory", 4.0, "GB").holds is None
    assert Line.from_row(json.loads(json.dumps(line.row()))) == line
    assert "MISSED" in aligned([Line("memory", 4.0, "GB", at_most=3)])[1]


def test_a_record_is_kept_with_what_it_depends_on(tmp_path: Path) -> None:
    file = tmp_path / "kept" / "one.json"
    one = small()
    one.options(["--turns", "5", "--keep", "/somewhere", "--json", str(file)])
    one.show("Small", {"dtype": "float32", "rows": 7}, [Line("speed", 1.5, "x", at_least=1)])
    record = json.loads(file.read_text("utf-8"))
    assert record.keys() == KEYS
    assert record["options"] == {"turns": 5}
    assert (record["dtype"], record["settings"]) == ("float32", {"rows": 7})
    assert record["rows"][0]["holds"] is True
    assert record["machine"]["cores"] >= 1
    assert record["load"] >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", record["date"])
    assert [path.name for path in file.parent.iterdir()] == ["one.json"]

    text = performance.with_measured(
        "<!-- measured small -->\ntyped\n<!-- end -->", {"small": record}
    )
    assert "| speed | ≥ 1 | 1.5 x | holds |  |" in text
    assert "turns 5, rows 7" in text
    assert "typed" not in text


@pytest.mark.parametrize(
    ("words", "documented"),
    [(["--turns", "5"], None), ([], {"turns": 9}), (["--turns", "5"], {"turns": 9})],
)
def test_other_options_are_refused_before_anything_is_measured(
    words: list[str],
    documented: dict[str, Any] | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as left:
        small(documented).options([*words, "--json"])
    assert left.value.code == 2
    says = capsys.readouterr().err
    assert f"--turns {(documented or {'turns': 3})['turns']}" in says
    assert "--replace" in says


def test_what_may_take_the_place_of_the_documented_run() -> None:
    for words, documented in (
        (["--json"], None),
        (["--turns", "9", "--json"], {"turns": 9}),
        (["--turns", "5", "--json", "--replace"], None),
        (["--keep", "somewhere", "--json"], None),
    ):
        one = small(documented)
        one.options(words)
        assert one.target == MEASURED / "small.json"
    assert (PROJECT / "benchmarks" / "measured") == MEASURED

    one = small()
    one.options(["--turns", "5"])
    assert one.target is None


def test_a_dash_prints_the_record_alone(capsys: pytest.CaptureFixture[str]) -> None:
    one = small()
    one.options(["--turns", "5", "--json", "-"])
    one.show("Small", {}, [Line("speed", 1.5, "x")], printed="never")
    assert json.loads(capsys.readouterr().out)["rows"][0]["measured"]["value"] == 1.5


def test_what_benchmarks_look_for_is_on_the_pages() -> None:
    """The keys of the parts that they wait for in a browser: nothing else runs them."""
    sought = {
        key
        for name in ("app", "features_page")
        for key in re.findall(
            r"\.st-key-([\w-]+)", (PROJECT / "benchmarks" / f"{name}.py").read_text("utf-8")
        )
    }
    pages = "\n".join(path.read_text("utf-8") for path in (PROJECT / "pages").rglob("*.py"))
    assert sought >= {"tiles", "svcca", "strip", "card"}
    assert {key for key in sought if f'key="{key}"' not in pages} == set()


def passes(*rates: float, computed: int = 1000) -> list[Pass]:
    """Passes of 1,000 tokens at these rates, which attend to ten positions each."""
    return [Pass(1000, 1000 / rate, computed, 10.0) for rate in rates]


def test_ratios_of_the_harvest_are_of_turns() -> None:
    """Ours is twice as fast in each turn, though the machine is ten times slower in one."""
    ours, glued, apart = passes(200, 20, 400), passes(100, 10, 200), passes(200, 20, 400)
    turns = {"ours": ours, harvest.GLUED: glued, harvest.APART: apart}
    slower = {name: passes(50, 5, 100) for name in turns}
    lines = harvest.speeds(
        "bfloat16", ["bfloat16", "float32"], {"bfloat16": turns, "float32": slower}
    )
    by_name = {line.what: line for line in lines}
    ratio = by_name[f"ours / {harvest.GLUED}, both bfloat16"]
    assert ratio.value == ratio.low == ratio.high == pytest.approx(2)
    assert (ratio.holds, ratio.n) == (True, 3)
    assert by_name[f"ours / {harvest.APART}, both bfloat16"].holds is False
    default = by_name["our default bfloat16 / SAELens' default, glued rows in float32"]
    assert default.value == pytest.approx(4)
    alone = harvest.speeds("float32", ["float32"], {"float32": slower})
    assert not [line for line in alone if "default" in line.what]


def test_the_bound_is_of_products_alone() -> None:
    """2 x 5 FLOPs of parameters and 2 x 10 of attention a token, at a tenth of a peak of 3,000."""
    shape = {"parameters": 5.0, "attention": 2.0}
    (peak, bound) = harvest.bounds(
        "float32", {"float32": {"ours": passes(10)}}, {"float32": [3000.0]}, shape
    )
    assert peak.value == pytest.approx(3e-6)
    assert bound.value == pytest.approx(10)


def test_what_is_computed_counts_padding_and_what_is_left_out() -> None:
    turns = {
        "ours": passes(1, computed=1100),
        harvest.GLUED: passes(1),
        harvest.APART: passes(1),
    }
    ours, glued, apart = harvest.what_is_computed("bfloat16", turns, [4, 8, 12, 16], 8)
    assert ours["positions computed for a row delivered"] == "1.10"
    assert (ours["documents"], ours["of the text's tokens"]) == ("apart", "all")
    assert glued["documents"].startswith("mixed")
    assert glued["positions computed for a row delivered"] == "1.00"
    assert apart["documents"] == "apart"
    assert apart["of the text's tokens"].startswith("60%: the first 8 tokens of the 75%")


def test_a_loaded_machine_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = iter([9.0, 9.0, 0.1])
    waited: list[float] = []
    monkeypatch.setattr(_measure, "REST", 60)
    monkeypatch.setattr(_measure.os, "getloadavg", lambda: (next(loads), 0.0, 0.0))
    monkeypatch.setattr(_measure.time, "sleep", waited.append)
    _measure.rest()
    assert len(waited) == 2
