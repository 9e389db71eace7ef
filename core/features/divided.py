"""Features measured by many processes: each reads a share of the text for the contexts of features,
their attributions and their firings; tables are made once, at the merge."""

import json
from functools import partial
from typing import Any

from core.activations.agreed import Run
from core.activations.shards import Shard
from core.bench import Bench
from core.errors import StitchLensError
from core.features.attribution import Attributions
from core.features.compare import CompareConfig, compare
from core.features.examples import Examples
from core.features.measure import Passes, explore
from core.features.shares import ALONE, Share, merged
from core.models.pairs import SIDES, PairSpec, Side
from core.saes.settings import ExploreConfig
from core.workspace.disk import beside, only_one
from core.workspace.manifest import versions


class Merged(Passes):
    """Passes that the shards of a run took."""

    def __init__(
        self,
        passes: Passes,
        run: Run,
        count: int,
    ) -> None:
        self.__dict__.update(passes.__dict__)
        self.run, self.count = run, count

    def examples(
        self,
        side: Side,
        share: Share = ALONE,
    ) -> Examples:
        sae = self.sides[side]
        return merged(_share(self.run, f"examples_{side}"), self.count, partial(_empty, sae))

    def attribution(self, share: Share = ALONE) -> Attributions:
        widths = {name: one.cfg.d_sae for name, (one, _) in self.compared.items()}
        empty = partial(Attributions, widths)
        return merged(_share(self.run, "attribution"), self.count, empty)


def _empty(sae: Any) -> Examples:
    return Examples(sae.cfg.d_sae)


def _share(
    run: Run,
    name: str,
    shard: Shard | None = None,
) -> Share:
    return Share(shard or Shard(0, 1), run.folder, name)


def features_shard(
    bench: Bench,
    sae_name: str,
    stitch_name: str,
    shard: Shard,
) -> None:
    """Read one share of the text on which features are measured. A killed shard goes on.

    Raises StitchLensError where another process reads this share, or the shards differ in their
    SAE, stitch, models, text or versions.
    """
    passes = Passes(bench, sae_name, stitch_name, ExploreConfig())
    run = Run(bench.pair.key, "features")
    if bench.current(f"features/{sae_name}", passes.makers):  # merged before
        return

    with run.joined(shard, _setup(passes)):
        for side in SIDES:
            passes.examples(side, _share(run, f"examples_{side}", shard))
        passes.attribution(_share(run, "attribution", shard))

        done = _done(run, shard)
        with beside(done) as part:
            part.write_text(json.dumps({"shard": str(shard)}), "utf-8")


def merge_features(pair: PairSpec) -> str:
    """Make the tables of features of what all shards read, and give the SAE's name; a killed merge
    goes on, and one more changes nothing.

    Raises StitchLensError where a shard is missing, with the command that makes it.
    """
    run = Run(pair.key, "features")
    agreed = run.agreed() or run.agreed_before()
    if agreed is None:
        raise StitchLensError(
            f"no shards of the features of '{pair.key}'",
            "some that read its text",
            f"run `python -m core features build {pair.key} --shard 0/2` and so on",
        )

    bench = Bench(pair)
    sae, stitch = agreed["makers"]["sae_name"], agreed["makers"]["stitch_name"]
    passes = Passes(bench, sae, stitch, ExploreConfig())
    run.compare("a merge", _setup(passes) | {"versions": versions()}, agreed)
    with only_one(pair.key, "merge"):
        if run.agreed() is not None:
            _check(run, agreed["shards"], sae, stitch)
            passes = Merged(passes, run, agreed["shards"])
        explore(bench, sae, stitch, passes.config, passes)
        compare(bench, sae, stitch)
        run.close()
    return sae


def _setup(passes: Passes) -> dict[str, Any]:
    return {"makers": passes.makers, "compared": CompareConfig().model_dump()}


def _done(run: Run, shard: Shard) -> Any:
    return run.folder / f"done.{shard.index:02d}-of-{shard.count:02d}.json"


def _check(
    run: Run,
    count: int,
    sae: str,
    stitch: str,
) -> None:
    """Raises StitchLensError where a shard has not read its share, with the command that goes
    on."""
    shards = [Shard(index, count) for index in range(count)]
    missing = [shard for shard in shards if not _done(run, shard).exists()]
    if not missing:
        return
    options = f"--sae {sae} --stitch {stitch} --shard {missing[0]}"
    raise StitchLensError(
        f"shard{'s' * (len(missing) > 1)} {', '.join(map(str, missing))} of the features of"
        f" '{run.pair}' not finished",
        f"all {count}",
        f"run `python -m core features build {run.pair} {options}`"
        f"{' and the others' * (len(missing) > 1)}, then merge again",
    )
