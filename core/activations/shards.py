"""Which share of the text one of many processes reads.

A window of documents belongs to one of PARTS parts by its number alone, and a shard reads the parts
in its share, so that neither the number of shards nor the order in which they come changes what is
added to what.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from core.errors import StitchLensError

LEVELS = 6
"""Times that neighbouring parts are added, two by two, until one sum is left."""
PARTS = 2**LEVELS
"""Of the text; there can be as many shards. As many as the blocks of Eq. 10, so that a block lies
in one shard."""
ONE_OF_N = "a share such as 0/4, from 0/N to N-1/N"


def part_of(window: int) -> int:
    """The part of a window of documents, by its number: the bits of the number from behind, so that
    few windows too are spread over all parts."""
    return int(f"{window % PARTS:0{LEVELS}b}"[::-1], 2)


@dataclass(frozen=True)
class Shard:
    """Share `index` of `count`."""

    index: int
    count: int

    @property
    def parts(self) -> range:
        """Neighbouring parts, so that most of their sums are taken within the shard."""
        first = PARTS * self.index // self.count
        behind = PARTS * (self.index + 1) // self.count
        return range(first, behind)

    def reads(self, window: int) -> bool:
        """Whether a window of documents, by its number, belongs to this shard."""
        return part_of(window) in self.parts

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


UNDIVIDED = Shard(0, 1)
"""What a single process reads."""


def owner(part: int, count: int) -> Shard:
    """The one of `count` shards that reads a part."""
    shards = (Shard(index, count) for index in range(count))
    return next(shard for shard in shards if part in shard.parts)


def shard_of(text: str | None, environment: Mapping[str, str]) -> Shard:
    """The share of this process: `--shard I/N`, else torchrun's RANK of WORLD_SIZE, else the task
    of a SLURM array; UNDIVIDED where nothing says so.

    Raises StitchLensError for what is no share, and where two of them contradict.
    """
    asked = None if text is None else _parsed(text)
    rank = _rank(environment)
    if asked and rank and asked != rank:
        raise _contradiction(f"--shard {asked}", f"RANK and WORLD_SIZE ({rank})")

    task = _task(environment)
    shard = asked or rank or task or UNDIVIDED
    if task and shard.index not in _numbers(task, environment):
        other = f"--shard {asked}" if asked else f"RANK and WORLD_SIZE ({rank})"
        raise _contradiction(other, f"task {task} of a SLURM array")
    return shard


def _numbers(task: Shard, environment: Mapping[str, str]) -> set[int]:
    """What `--shard` may say in a task: its place in the array, or its number, by which one task of
    a larger array is run again."""
    return {task.index, int(environment["SLURM_ARRAY_TASK_ID"])}


def _contradiction(one: str, other: str) -> StitchLensError:
    return StitchLensError(
        f"{one} beside {other}",
        "one share for one process",
        "leave --shard out, or unset the variables of the other",
    )


def _parsed(text: str) -> Shard:
    index, _, count = text.partition("/")
    if not (_is_number(index) and _is_number(count)):
        raise StitchLensError(
            f"--shard '{text}'", ONE_OF_N, "write it as I/N, two whole numbers, I counted from 0"
        )
    return _checked(int(index), int(count), f"--shard {text}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def _checked(
    index: int,
    count: int,
    said: str,
) -> Shard:
    if count > PARTS:
        raise StitchLensError(
            said, f"at most {PARTS} shards", f"divide the work by {PARTS} or fewer"
        )
    if not 0 <= index < count:
        most = f"I from 0 to {count - 1}" if count else "N of 1 or more"
        raise StitchLensError(said, f"a share I/N with {most}", "shards are counted from 0")
    return Shard(index, count)


def _rank(environment: Mapping[str, str]) -> Shard | None:
    """What torchrun says."""
    numbers = _read(environment, "RANK", "WORLD_SIZE")
    if numbers is None:
        return None
    rank, size = numbers
    return _checked(rank, size, f"RANK {rank} of WORLD_SIZE {size}")


def _task(environment: Mapping[str, str]) -> Shard | None:
    """What SLURM says to a task of an array."""
    numbers = _read(environment, "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
    if numbers is None:
        return None

    number, count = numbers
    first = _number(environment, "SLURM_ARRAY_TASK_MIN", 0)
    step = _number(environment, "SLURM_ARRAY_TASK_STEP", 1) or 1
    said = f"SLURM_ARRAY_TASK_ID {number} (from {first}) of {count} tasks"
    index, rest = divmod(number - first, step)
    if rest:
        raise StitchLensError(
            said, f"a task every {step}", "give the array as 0-3, or say --shard I/N"
        )
    return _checked(index, count, said)


def _read(
    environment: Mapping[str, str],
    index: str,
    count: str,
) -> tuple[int, int] | None:
    """Two variables that belong together; None where neither is set."""
    if index not in environment and count not in environment:
        return None
    for name in (index, count):
        if name not in environment:
            raise StitchLensError(
                f"{index if name == count else count} without {name}",
                "both or neither",
                f"set {name} as well, or say --shard I/N",
            )
    return _number(environment, index, 0), _number(environment, count, 1)


def _number(
    environment: Mapping[str, str],
    name: str,
    default: int,
) -> int:
    text = environment.get(name, str(default)).strip()
    if not _is_number(text):
        raise StitchLensError(
            f"{name} '{text}'", "a whole number", "unset it, or say --shard I/N without it"
        )
    return int(text)
