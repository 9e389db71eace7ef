"""Moments of a split that many processes read, each some parts of it.

Each part has a Gram of its own, and neighbouring Grams are added two by two as soon as both are
whole. Which sums are taken follows from the parts alone, so the result is the same to the last bit
for any number of shards and any order in which they come.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from core.activations.gram import Gram, load_record
from core.activations.harvest import (
    Account,
    Ledger,
    first_limits,
    moments_path,
    open_account,
    read_into,
    windows,
)
from core.activations.shards import LEVELS, PARTS, Shard, owner, part_of
from core.models.align import encode_both
from core.models.live import LiveModel
from core.models.pairs import LayerPair
from core.text.corpus import Document
from core.workspace.disk import fingerprint, only_one, put_once

COUNTS = ("window", "documents", "characters", "tokens", "read", "dropped")
"""What ledgers add up."""


@dataclass(frozen=True)
class Node:
    """The sum over 2^level neighbouring parts, the `index`th such."""

    level: int
    index: int

    @property
    def parts(self) -> range:
        return range(self.index << self.level, (self.index + 1) << self.level)

    @property
    def halves(self) -> "tuple[Node, Node]":
        below = self.level - 1
        return Node(below, 2 * self.index), Node(below, 2 * self.index + 1)


ROOT = Node(LEVELS, 0)
"""All of the text."""


@dataclass(frozen=True)
class Division:
    """The divided harvest of one layer pair over one split."""

    pair: LayerPair
    config: dict[str, Any]
    """Of the harvest; see `harvest_config`."""
    home: Path
    """The folder of the run."""

    @property
    def folder(self) -> Path:
        return self.home / f"moments-{fingerprint(self.config)}" / self.pair.name

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def whole(self) -> bool:
        """Whether the moments of the whole text are there, by a merge or by one process."""
        return _finished(moments_path(self.config, self.pair))

    def path(self, node: Node) -> Path:
        return self.folder / f"sum-{node.level}-{node.index:02d}.safetensors"

    def agree(
        self,
        a: LiveModel,
        b: LiveModel,
        documents: Sequence[Document],
    ) -> None:
        """Fix what all shards go by, unless one of them has: `limits`, the norms above which a row
        is an outlier, from the first window with a pair; and how many `windows` are read."""
        if self.plan.exists():
            return

        limits = first_limits(a, b, documents, self.pair)
        wanted = windows_to_read(a, b, documents, self.config["positions"])
        put_once(self.plan, json.dumps({"limits": limits, "windows": wanted}))

    @cached_property
    def agreed(self) -> dict[str, Any]:
        """What `agree` fixed."""
        return json.loads(self.plan.read_text("utf-8"))

    @cached_property
    def parts(self) -> list[int]:
        """Those with a window to read."""
        return sorted({part_of(window) for window in range(self.agreed["windows"])})

    def empty(self, node: Node) -> bool:
        """Whether a node has no text."""
        return not any(part in node.parts for part in self.parts)

    def begin(
        self,
        part: int,
        widths: tuple[int, int],
    ) -> Account:
        """The account of one part, as its checkpoint left it or empty."""
        # The budget of positions is in the plan: a part is read to its end.
        config = self.config | {"positions": None, "asked": self.config["positions"]}
        ledger = Ledger(config, limits=self.agreed["limits"])
        return open_account(self.pair, self.path(Node(0, part)), widths, ledger)

    def holds(self, node: Node) -> bool:
        """Whether the sum of a node is stored, or it has no text."""
        return self.empty(node) or _finished(self.path(node))

    def covers(self, part: int) -> bool:
        """Whether a part is in some sum that is stored."""
        nodes = (Node(level, part >> level) for level in range(LEVELS + 1))
        return any(self.holds(node) for node in nodes)

    def lacking(self) -> list[int]:
        """The parts that no shard has finished."""
        if self.whole:
            return []
        if not self.plan.exists():
            return list(range(PARTS))
        return [part for part in self.parts if not self.covers(part)]

    def fold(
        self,
        part: int,
        within: range,
    ) -> None:
        """After a part: store the sums that it completes among the parts `within`, instead of what
        they are the sums of."""
        for level in range(1, LEVELS + 1):
            node = Node(level, part >> level)
            if node.parts.start not in within or node.parts[-1] not in within:
                return

            if not self.holds(node):
                if not all(map(self.holds, node.halves)):
                    return
                replace(self.total(node), path=self.path(node)).save()
            for half in node.halves:
                self.path(half).unlink(missing_ok=True)

    def total(self, node: Node) -> Account:
        """The sum over a node, from what is stored of it."""
        if self.path(node).exists():
            return open_account(self.pair, self.path(node), (0, 0), Ledger(self.config))

        first, second = node.halves
        if self.empty(second):
            return self.total(first)
        if self.empty(first):
            return self.total(second)
        return _added(self.total(first), self.total(second))

    def merge(self) -> None:
        """Put the moments of the whole text where a single process has them, unless they are
        there."""
        if self.whole:
            return
        total = self.total(ROOT)
        ledger = replace(total.ledger, config=self.config)
        replace(total, path=moments_path(self.config, self.pair), ledger=ledger).save()


def windows_to_read(
    a: LiveModel,
    b: LiveModel,
    documents: Sequence[Document],
    positions: int | None,
) -> int:
    """How many windows hold `positions` pairs: tokens tell that, no model runs."""
    todo = windows(documents)
    if positions is None:
        return len(todo)

    pairs = 0
    for number, docs in enumerate(todo):
        texts = [document.text for document in docs]
        pairs += sum(len(own) for own, _ in encode_both(a, b, texts).paired)
        if pairs >= positions:
            return number + 1
    return len(todo)


def harvest_shard(
    a: LiveModel,
    b: LiveModel,
    documents: Sequence[Document],
    divisions: Sequence[Division],
    shard: Shard,
    desc: str = "harvest",
    after_window: Callable[[int], None] = lambda n: None,
) -> None:
    """Read the parts of one shard, for all layer pairs at once. Each part is checkpointed: a killed
    shard goes on from there to the same bits."""
    widths = (a.spec.d_model, b.spec.d_model)
    todo = [division for division in divisions if not division.whole]
    for division in todo:
        division.agree(a, b, documents)

    numbered = list(enumerate(windows(documents)))
    for count, part in enumerate(shard.parts, 1):
        unread = [division for division in todo if not division.covers(part)]
        accounts = [division.begin(part, widths) for division in unread]
        if accounts:
            last = max(division.agreed["windows"] for division in unread)
            share = [window for window in numbered[:last] if part_of(window[0]) == part]
            part_desc = f"{desc}, part {count} of {len(shard.parts)}"
            read_into(accounts, a, b, share, part_desc, after_window)
        for division in todo:
            division.fold(part, shard.parts)


def unfinished(
    divisions: Sequence[Division],
    count: int,
) -> list[Shard]:
    """Those of `count` shards that have not read all of their parts."""
    parts = sorted({part for division in divisions for part in division.lacking()})
    shards = [owner(part, count) for part in parts]
    return list(dict.fromkeys(shards))


def merge_moments(divisions: Sequence[Division]) -> None:
    """The moments of the whole text, where a single process would put them."""
    for division in divisions:
        with only_one(fingerprint(division.config), "harvest"):
            division.merge()


def _finished(path: Path) -> bool:
    return path.exists() and load_record(path)["finished"]


def _added(
    one: Account,
    other: Account,
) -> Account:
    sums = {name: getattr(one.ledger, name) + getattr(other.ledger, name) for name in COUNTS}
    gram: Gram = one.gram.merge(other.gram)
    return replace(one, gram=gram, ledger=replace(one.ledger, **sums))
