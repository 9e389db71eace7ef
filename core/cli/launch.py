"""What starts a command in many processes, as text: people's own engines run it."""

import shlex
import sys
from collections.abc import Sequence

from core.activations.shards import PARTS
from core.errors import StitchLensError
from core.workspace.places import PROJECT, user_cache, workspaces_dir

DIVIDED = (("build",), ("features", "build"))
"""The commands whose work can be divided."""


def words_of(
    pair: str,
    command: Sequence[str],
    shards: int,
    slurm: bool,
    torchrun: bool,
) -> list[str]:
    """The words of the command for a pair. Raises StitchLensError where it cannot be divided so."""
    if slurm == torchrun:
        raise StitchLensError(
            "--slurm and --torchrun" if slurm else "neither --slurm nor --torchrun",
            "one of them",
            "give --slurm for an array of jobs, --torchrun for processes on one machine",
        )
    if shards > PARTS:
        raise StitchLensError(
            f"{shards} shards", f"at most {PARTS}", f"give --shards {PARTS} or less"
        )

    for words in DIVIDED:
        options = list(command[len(words) :])
        if tuple(command[: len(words)]) == words and (not options or options[0].startswith("-")):
            if any(option.partition("=")[0] == "--shard" for option in options):
                raise StitchLensError("--shard", "none, each process has its own", "leave it out")
            return [*words, pair, *options]
    raise StitchLensError(
        f"the command '{' '.join(command)}'",
        "build or features build",
        "see `python -m core launch --help`",
    )


def torchrun_command(
    words: Sequence[str],
    shards: int,
) -> str:
    """For processes on one machine, one a GPU where there are several."""
    torchrun = f"{shlex.quote(sys.executable)} -m torch.distributed.run"
    return f"{torchrun} --standalone --nproc-per-node {shards} -m core {shlex.join(words)}"


def slurm_script(
    words: Sequence[str],
    shards: int,
) -> str:
    """A shell script that submits an array of shards and the merge that waits for all of them."""
    pair = words[words.index("build") + 1]
    name = f"{pair}-{words[0]}"
    python = shlex.quote(sys.executable)
    return f"""#!/bin/bash
# Submits {shards} shards and their merge. Every node must see the folders named here.
# Add what your cluster asks for, such as #SBATCH --gres=gpu:1 and --time, to both jobs.
set -euo pipefail
export STITCHLENS_CACHE={shlex.quote(str(user_cache()))}
export STITCHLENS_WORKSPACES={shlex.quote(str(workspaces_dir()))}
cd {shlex.quote(str(PROJECT))}

shards=$(sbatch --parsable <<'JOB'
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{shards - 1}
#SBATCH --output={name}-%a.log
#SBATCH --requeue
exec {python} -m core {shlex.join(words)} --shard "$SLURM_ARRAY_TASK_ID/{shards}"
JOB
)

sbatch --dependency="afterok:$shards" <<'JOB'
#!/bin/bash
#SBATCH --job-name={name}-merge
#SBATCH --output={name}-merge.log
exec {python} -m core merge {shlex.quote(pair)}
JOB
"""
