"""The plan of a large pair counts what is computed: products are those that torch counts, bytes
those of the sums, and the page shows this table."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from core.activations.gram import Gram
from core.activations.planning import H100, PLANS, Machine, Plan, Size, as_markdown
from core.models import hooks
from core.workspace.places import PROJECT
from tests.helpers.small import Tiny


@pytest.mark.parametrize(("a", "b"), [(8, 12), (300, 420)])
def test_sums_are_the_products_of_a_gram(a: int, b: int) -> None:
    n = 50
    gram = Gram(a, b)
    with FlopCounterMode(display=False) as counted:
        gram.update(torch.randn(n, a), torch.randn(n, b))
    plan = Plan(Size("A", 1, 1, a, 1), Size("B", 1, 1, b, 1), n)
    assert plan.sums == counted.get_total_flops()
    assert plan.gram == 8 * (gram.S.numel() + gram.X.numel())


@pytest.mark.parametrize("kind", ["nano-a", "gemma"])
def test_passes_are_the_products_of_a_model(tiny: Tiny, kind: str) -> None:
    """Up to the stitched layer; attention over a short text adds little."""
    model, layer = tiny(kind), 2
    outside = {model.hf.get_input_embeddings().weight, model.hf.get_output_embeddings().weight}
    body = sum(p.numel() for p in model.hf.parameters() if p not in outside)
    ids = model.pad([np.arange(40, dtype=np.int32)])
    with FlopCounterMode(display=False) as counted:
        hooks.residuals(model, ids, [layer])
    size = Size(kind, body, model.spec.n_layers, model.spec.d_model, layer)
    assert counted.get_total_flops() == pytest.approx(40 * size.flops, rel=0.25)


def test_twice_the_processes_take_half_of_the_reading() -> None:
    plan = PLANS["Gemma-2-2B and 9B"]
    one, two = (
        plan.hours(H100),
        plan.hours(Machine("two", *(2 * x for x in (H100.products, H100.sums, H100.double)))),
    )
    assert two["reading"] == pytest.approx(one["reading"] / 2)
    assert plan.disk(1) == 7 * plan.gram, "one sum of each level"
    assert plan.disk(64) == 64 * plan.gram, "a part each"


def test_the_page_shows_this_table() -> None:
    assert as_markdown() in (PROJECT / "docs" / "scale.md").read_text("utf-8")
