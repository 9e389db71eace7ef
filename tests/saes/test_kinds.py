"""SAEs of some kinds of text alone: what they are trained on, what they are called, and that B's own
SAE is trained on the same."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from core.bench import Bench
from core.cli.main import app
from core.config import POSITIONS, BuildConfig
from core.errors import StitchLensError
from core.features.compare import OWN_SAES, Comparison
from core.models.pairs import PairSpec
from core.saes import train as sae_train
from core.saes.crossing import Crossing
from core.saes.settings import SaeConfig
from core.workspace.disk import fingerprint
from tests.helpers.small import stitched_bench

SMALL = SaeConfig(width=16, k=4, epochs=1, batch=128)


@pytest.fixture(scope="module")
def bench(tiny_pair: PairSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A pair whose corpus, a folder of files, holds a kind a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STITCHLENS_DTYPE", "float32")
        patch.setenv("STITCHLENS_WORKSPACES", str(tmp_path_factory.mktemp("workspaces")))
        yield Bench(tiny_pair, BuildConfig(positions=2000))


def kinds_of(bench: Bench) -> list[str]:
    """By how much text there is, the most first."""
    sizes: dict[str, int] = {}
    for document in bench.corpus.split("fit"):
        sizes[document.kind] = sizes.get(document.kind, 0) + len(document.text)
    return sorted(sizes, key=lambda kind: -sizes[kind])


def test_kinds_share_out_the_rows_of_the_whole_text(bench: Bench) -> None:
    kinds = kinds_of(bench)
    assert len(kinds) > 3
    whole = bench.rows("b", 2, "fit").n
    some = bench.rows("b", 2, "fit", kinds=kinds[:2])
    rest = bench.rows("b", 2, "fit", kinds=kinds[2:])
    assert 0 < some.n < whole
    assert some.n + rest.n == pytest.approx(whole, abs=0.01 * whole)  # each has an outlier rule
    assert bench.rows("b", 2, "fit", kinds=[kinds[1], kinds[0]]).folder == some.folder


def test_an_unknown_kind_is_refused_with_those_there_are(bench: Bench) -> None:
    with pytest.raises(StitchLensError, match=f"kinds in this corpus .*{kinds_of(bench)[0]}"):
        bench.rows("a", 1, "fit", kinds=["Klingon"])


def test_an_sae_of_kinds_says_so(bench: Bench) -> None:
    kinds = kinds_of(bench)[:3]
    words = [word.lower() for kind in sorted(kinds) for word in kind.split()]
    name = sae_train.train(bench, 1, SMALL, 1_000, kinds)
    assert name == "-".join(["L1", "16", *words])
    entry = bench.workspace.entry(f"saes/{name}")
    assert entry.makers["kinds"] == sorted(kinds)

    everything = sae_train.train(bench, 1, SMALL, 1_000)
    assert everything == "L1-16"
    assert "kinds" not in bench.workspace.entry(f"saes/{everything}").makers


def test_the_other_models_own_sae_reads_the_same_kinds(
    tiny_pair: PairSpec, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with stitched_bench(tiny_pair, tmp_path_factory) as stitched:
        name = sae_train.train(stitched, 1, SMALL, 1_000, ["English"])
        for sae in (name, sae_train.train(stitched, 1, SMALL, 1_000)):
            assert Comparison(stitched, sae, "L1-L2").own_sae.cfg.d_sae == SMALL.width

        makers = stitched.workspace.entry(f"saes/{name}").makers
        by_name = Crossing(stitched, name, "L1-L2")
        assert by_name.source_positions == makers["positions"] == 1_000
        opened = Crossing(stitched, by_name.sae, "L1-L2")
        assert opened.source_positions == POSITIONS, "nobody said how many"

        own = f"{OWN_SAES}/{name}"
        assert stitched.workspace.entry(own).makers["kinds"] == ["English"]
        assert "kinds" not in stitched.workspace.entry(f"{OWN_SAES}/L1-16").makers


def test_makers_without_kinds_are_those_of_before(bench: Bench) -> None:
    makers = sae_train.sae_makers(bench, "b", 2, SMALL, None)
    assert "kinds" not in makers
    assert fingerprint(makers) == fingerprint(sae_train.sae_makers(bench, "b", 2, SMALL, None, []))
    of_code = sae_train.sae_makers(bench, "b", 2, SMALL, None, ["code"])
    assert of_code == makers | {"kinds": ["code"]}


def test_the_command_refuses_a_kind_that_is_not_there(nano_home: Path) -> None:
    result = CliRunner().invoke(app, ["features", "build", "nano", "--kinds", "English,Klingon"])
    assert result.exit_code == 2
    assert "'Klingon'" in result.output and "English" in result.output
    assert "Traceback" not in result.output
