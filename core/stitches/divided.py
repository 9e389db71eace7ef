"""A build whose reading many processes share: each takes a share of the moments; what cannot be
divided (SVCCA, fits, α sweep, Table 1) is done once, at the merge."""

from collections.abc import Sequence
from typing import Any

from core.activations.agreed import Run
from core.activations.divided import Division, harvest_shard, merge_moments, unfinished
from core.activations.harvest import harvest_config
from core.activations.shards import Shard
from core.bench import Bench
from core.config import BuildConfig
from core.errors import StitchLensError
from core.models.pairs import PairSpec
from core.stitches.measure import build, layer_pairs, read_splits
from core.text.corpus import Split, check_splits
from core.workspace.disk import only_one
from core.workspace.manifest import versions
from core.workspace.store import Workspace

OPTIONS = {
    "held_out_tokens": "--tokens",
    "select_tokens": "--select-tokens",
    "positions": "--positions",
    "svcca_positions": "--svcca-positions",
}
"""Of `build`, by the settings that they give."""


def build_shard(
    pair: PairSpec,
    shard: Shard,
    config: BuildConfig | None = None,
) -> None:
    """Read one share of the text that a build takes moments of. A killed shard goes on.

    Raises StitchLensError where another process reads this share, or the shards differ in their
    settings, models, text or versions.
    """
    bench = Bench(pair, config or BuildConfig())
    check_splits(bench.corpus)
    run = Run(pair.key, "build")
    with run.joined(shard, _setup(bench)):
        for split, divisions in _divisions(bench, run).items():
            desc = f"shard {shard} reads the {split} split"
            documents = bench.corpus.split(split)
            harvest_shard(bench.a, bench.b, documents, divisions, shard, desc)


def merge_build(pair: PairSpec) -> Workspace:
    """Add up what all shards read and do the rest of the build; a killed merge goes on, and one
    more changes nothing.

    Raises StitchLensError where a shard is missing, with the command that makes it.
    """
    run = Run(pair.key, "build")
    agreed = run.agreed() or run.agreed_before()
    if agreed is None:
        raise StitchLensError(
            f"no shards of a build of '{pair.key}'",
            "some that read its text",
            f"run `python -m core build {pair.key} --shard 0/2` and so on, or build it whole",
        )

    bench = Bench(pair, BuildConfig.model_validate(agreed["config"]))
    run.compare("a merge", _setup(bench) | {"versions": versions()}, agreed)
    with only_one(pair.key, "merge"):
        for divisions in _divisions(bench, run).values():
            _check(divisions, bench, agreed["shards"])
            merge_moments(divisions)

        workspace = build(pair, bench.config)
        run.close()
    return workspace


def _options(config: BuildConfig) -> str:
    """Of `build`, such as give these settings."""
    usual = BuildConfig()
    changed = [name for name in OPTIONS if getattr(config, name) != getattr(usual, name)]
    return "".join(f" {OPTIONS[name]} {getattr(config, name) or 0}" for name in changed)


def _setup(bench: Bench) -> dict[str, Any]:
    return {
        "config": bench.config.model_dump(),
        "makers": bench.makers,
        "layers": [layers.name for layers in bench.pair.layer_pairs],
    }


def _divisions(
    bench: Bench,
    run: Run,
) -> dict[Split, list[Division]]:
    """The divided harvests of a build, by split."""
    # Where SVCCA chooses the layer, the first shard measures it and the others wait.
    with only_one(bench.pair.key, "choice of layers", wait=True):
        pairs = layer_pairs(bench)

    divided: dict[Split, list[Division]] = {}
    for split, positions in read_splits(bench.config).items():
        fingerprint = bench.corpus.fingerprint
        config = harvest_config(bench.a, bench.b, fingerprint, split, positions)
        divided[split] = [Division(layers, config, run.folder) for layers in pairs]
    return divided


def _check(
    divisions: Sequence[Division],
    bench: Bench,
    count: int,
) -> None:
    """Raises StitchLensError where a shard has not read its share, with the command that goes
    on."""
    missing = unfinished(divisions, count)
    if not missing:
        return
    listed = ", ".join(map(str, missing))
    pair, options = bench.pair.key, _options(bench.config)
    raise StitchLensError(
        f"shard{'s' * (len(missing) > 1)} {listed} of '{pair}' not finished",
        f"all {count}",
        f"run `python -m core build {pair} --shard {missing[0]}{options}`"
        f"{' and the others' * (len(missing) > 1)}, then merge again",
    )
