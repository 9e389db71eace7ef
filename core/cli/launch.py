"""What starts a command in many processes, as text: people's own engines run it."""

import shlex
import sys
from collections.abc import Sequence

from core.activations.shards import PARTS
from core.errors import StitchLensError
from core.workspace.places import PROJECT, user_cache, workspaces_dir

DIVIDED = (("build",), ("features", "build"))
"""The commands that read one share of the text each, which a merge puts together."""
SHARED = (("steer", "eval"), ("probes", "eval"), ("sae", "train"), ("sae", "starts"))
"""Those whose processes each take what no other is at (`core.workspace.units`)."""


def words_of(
    pair: str,
    command: Sequence[str],
    shards: int,
    slurm: bool,
    torchrun: bool,
) -> list[str]:
    """The words of the command for a pair. Raises StitchLensError where many processes cannot do
    it."""
    if slurm == torchrun:
        raise StitchLensError(
            "--slurm and --torchrun" if slurm else "neither --slurm nor --torchrun",
            "one of them",
            "give --slurm for an array of jobs, --torchrun for processes on one machine",
        )
    for words in (*DIVIDED, *SHARED):
        options = list(command[len(words) :])
        if tuple(command[: len(words)]) == words and (not options or options[0].startswith("-")):
            if any(option.partition("=")[0] == "--shard" for option in options):
                raise StitchLensError("--shard", "none, each process has its own", "leave it out")
            if words in DIVIDED and shards > PARTS:
                raise StitchLensError(
                    f"{shards} shards", f"at most {PARTS}", f"give --shards {PARTS} or less"
                )
            return [*words, pair, *options]
    raise StitchLensError(
        f"the command '{' '.join(command)}'",
        "build, features build, steer eval, probes eval, sae train or sae starts",
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
    pair: str,
    words: Sequence[str],
    shards: int,
) -> str:
    """A shell script that submits an array of processes and, where their work is divided, the merge
    that waits for all of them."""
    name = f"{pair}-{words[0]}"
    command = f"{shlex.quote(sys.executable)} -m core"
    divided = any(tuple(words[: len(known)]) == known for known in DIVIDED)
    what = "shards and their merge" if divided else "processes that share the work"
    begin = f"""#!/bin/bash
# Submits {shards} {what}. Every node must see the folders named here.
# Add what your cluster asks for, such as #SBATCH --gres=gpu:1 and --time, to each job.
set -euo pipefail
export STITCHLENS_CACHE={shlex.quote(str(user_cache()))}
export STITCHLENS_WORKSPACES={shlex.quote(str(workspaces_dir()))}
cd {shlex.quote(str(PROJECT))}
"""
    job = f"""<<'JOB'
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{shards - 1}
#SBATCH --output={name}-%a.log
#SBATCH --requeue
exec {command} {shlex.join(words)}"""
    if not divided:
        return f"""{begin}
sbatch {job}
JOB
"""

    return f"""{begin}
shards=$(sbatch --parsable {job} --shard "$SLURM_ARRAY_TASK_ID/{shards}"
JOB
)

sbatch --dependency="afterok:$shards" <<'JOB'
#!/bin/bash
#SBATCH --job-name={name}-merge
#SBATCH --output={name}-merge.log
exec {command} merge {shlex.quote(pair)}
JOB
"""
