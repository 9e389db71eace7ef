"""The commands that divide work over processes and put it together again."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.activations.shards import UNDIVIDED, Shard, shard_of
from core.cli.shared import PairArg, app, guarded, show
from core.config import BuildConfig
from core.models.pairs import PairSpec, get_pair

if TYPE_CHECKING:
    from core.bench import Bench

ShardOpt = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help=(
            "Read share I of N alone, such as 0/4, and `merge` afterwards; torchrun and SLURM"
            " arrays say it themselves."
        ),
    ),
]


def own_shard(text: str | None) -> Shard | None:
    """The share of this process, with a line of which it is; None where it does all of the work."""
    shard = shard_of(text, os.environ)
    if shard == UNDIVIDED:
        return None
    print(f"Shard {shard}", file=sys.stderr)
    return shard


def show_once(
    record: dict[str, Any],
    as_json: bool,
    text: str,
) -> None:
    """`show`, after work that processes share; of torchrun's ranks the first does."""
    rank = os.environ.get("RANK", "0")
    if rank == "0":
        show(record, as_json, text)
    else:
        print(f"Rank {rank} ends: all of the work is done, and rank 0 shows it.", file=sys.stderr)


def build_share(
    spec: PairSpec,
    config: BuildConfig,
    shard: Shard,
) -> None:
    """One share of a build."""
    from core.stitches.divided import build_shard

    _share(shard, spec, lambda: build_shard(spec, shard, config), _merge_build)


def features_share(
    bench: "Bench",
    make_sae: Callable[[], str],
    stitch_name: str,
    shard: Shard,
    trains: bool,
) -> None:
    """One share of the features of an SAE, which the first shard makes and the others wait for; one
    that is trained under torchrun, all of them make together."""
    from core.activations.ranks import together
    from core.features.divided import features_shard
    from core.workspace.disk import only_one

    def read() -> None:
        if trains and together(os.environ):
            sae = make_sae()
        else:
            with only_one(bench.pair.key, "SAE of shards", wait=True):
                sae = make_sae()
        features_shard(bench, sae, stitch_name, shard)

    _share(shard, bench.pair, read, _merge_features)


def _share(
    shard: Shard,
    pair: PairSpec,
    read: Callable[[], None],
    merge: Callable[[PairSpec], None],
) -> None:
    """Read one share; under torchrun wait for the others, and rank 0 merges."""
    from core.activations.ranks import together, watched

    if not together(os.environ):
        read()
        print(f"Shard {shard} is read. Once all are: python -m core merge {pair.key}")
        return

    with watched(shard, os.environ) as watch:
        read()
        watch.barrier()
    if shard.index == 0:
        merge(pair)


def _merge_build(pair: PairSpec) -> None:
    from core.stitches.divided import merge_build

    workspace = merge_build(pair)
    print(f"Built {workspace.root.name}: {', '.join(workspace.names())}")


def _merge_features(pair: PairSpec) -> None:
    from core.features.divided import merge_features

    print(f"Features of SAE {merge_features(pair)} of '{pair.key}' are measured.")


@app.command("merge")
@guarded
def merge_command(
    pair: PairArg,
    discard: Annotated[
        bool, typer.Option("--discard", help="Throw away what shards did so far.")
    ] = False,
) -> None:
    """Add up what the shards of `build` or `features build` read, and do the rest of it."""
    from core.activations.agreed import Run

    spec = get_pair(pair)
    build, features = Run(spec.key, "build"), Run(spec.key, "features")
    if discard:
        existed = [run.discard() for run in (build, features)]
        print("Threw away what shards did." if any(existed) else "There were no shards.")
        return

    begun = [run for run in (build, features) if run.agreed()]
    before = [run for run in (build, features) if run.agreed_before()]
    merges = {"build": _merge_build, "features": _merge_features}
    for run in begun or before or [build]:
        merges[run.what](spec)


@app.command("launch")
@guarded
def launch_command(
    pair: PairArg,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            help=(
                "`build`, `features build`, `steer eval`, `probes eval`, `sae train` or"
                " `sae starts`; its own options after `--`."
            )
        ),
    ] = None,
    shards: Annotated[int, typer.Option(min=2, help="Processes that share the work.")] = 4,
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Print a script of a SLURM array, and of the merge.")
    ] = False,
    torchrun: Annotated[
        bool, typer.Option("--torchrun", help="Print the command for processes on one machine.")
    ] = False,
) -> None:
    """Print how to run a command over many processes: `… --slurm | bash` starts it."""
    from core.cli.launch import slurm_script, torchrun_command, words_of

    key = get_pair(pair).key
    words = words_of(key, command or ["build"], shards, slurm, torchrun)
    print(slurm_script(key, words, shards) if slurm else torchrun_command(words, shards))
