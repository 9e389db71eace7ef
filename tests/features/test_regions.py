"""Names of regions on planted maps: what is there is named, what is not is not."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom

from core.features import alike, regions
from core.features import tables as feature_tables
from core.features.regions import Region
from core.workspace.store import Workspace
from tests.helpers.planted import plant

CENTRES = {"French": (0.0, 0.0), "months": (10.0, 0.0), "Cyrillic letters": (0.0, 10.0)}
LABELS = {
    "French": ("language", ["French"]),
    "months": ("token", [" January", " March", "April"]),
    "Cyrillic letters": ("token", ["да", " нет"]),
}
EACH = 60
"""Features of a region; four of five have the region's own label."""


def planted(seed: int = 0) -> pd.DataFrame:
    """Labels at three places; what is not planted is a word that no other label holds."""
    rng = np.random.default_rng(seed)
    rows = []
    for name, centre in CENTRES.items():
        for k in range(EACH):
            family, values = LABELS[name] if k % 5 else ("word so far", [f"{name}-{k}"])
            x, y = rng.normal(centre, 0.4)
            rows.append((family, values, "", [], x, y))
    columns = ["first_family", "first_values", "second_family", "second_values", "x", "y"]
    return pd.DataFrame(rows, columns=columns)


def test_planted_regions_are_named_where_they_lie() -> None:
    found = {region.words[0]: region for region in regions.named(planted())}
    assert set(CENTRES) <= set(found) | {word for one in found.values() for word in one.words}
    for name, (x, y) in CENTRES.items():
        region = next(one for one in found.values() if name in one.words)
        assert np.hypot(region.x - x, region.y - y) < 1.0, (name, region)
        share = region.shares[region.words.index(name)]
        assert 0.7 < share <= 1.0 and region.overall[region.words.index(name)] == (
            pytest.approx(0.8 / 3)
        )


def test_words_at_random_places_name_nothing() -> None:
    """One of twenty such maps may have a name."""
    table, false = planted(), 0
    for seed in range(12):
        order = np.random.default_rng(seed).permutation(len(table))
        false += bool(
            regions.named(table.assign(x=table.x[order].to_numpy(), y=table.y[order].to_numpy()))
        )
    assert false <= 1


def test_the_bound_on_chance_holds_and_is_tight() -> None:
    rng = np.random.default_rng(0)
    total = 500
    drawn = rng.integers(1, total, 400)
    holding = rng.integers(1, total, 400)
    least, most = np.maximum(0, drawn + holding - total), np.minimum(drawn, holding)
    labels = rng.integers(least, most + 1)
    bound = regions.log_chance(labels, drawn, holding, total)
    exact = hypergeom.logsf(labels - 1, total, holding, drawn)
    above = labels > 1.5 * drawn * holding / total
    assert (bound >= exact - 1e-6).all() and above.sum() > 30
    assert (bound - exact)[above].max() < np.log(2)


def test_basins_are_those_of_separate_clouds() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([(0, 0), (10, 0), (0, 10), (10, 10)])
    cloud = rng.integers(0, 4, 2000)
    region, peaks = regions.basins(centres[cloud] + rng.normal(0, 0.5, (2000, 2)), 3.0)
    counts = pd.crosstab(cloud, region).to_numpy()
    assert counts.max(axis=1).sum() == 2000 or (counts.max(axis=0).sum() == 2000)
    nearest = np.linalg.norm(peaks[:, None] - centres, axis=2).min(axis=1)
    assert nearest.max() < 2.0 and len(peaks) >= 4


def test_names_that_touch_are_left_out_and_the_surest_stays() -> None:
    def at(x: float, y: float, *words: str) -> Region:
        return Region(x, y, words, 10, (0.5,), (0.1,))

    one, near, far = at(0, 0, "signs"), at(0.1, 0, "numbers"), at(5, 0, "months")
    assert regions.apart([one, near, far], 30.0) == [one, far]
    assert regions.apart([one, near, far], 3000.0) == [one, near, far]
    assert regions.apart([one, near, far], 3000.0, most=2) == [one, near]


@pytest.mark.parametrize(
    ("family", "values", "words"),
    [
        ("language", ("French", "Spanish"), {"French", "Spanish"}),
        ("script", ("Greek",), {"Greek letters"}),
        ("token", (" 1", "2"), {"“1”", "“2”", "numbers"}),
        ("token", (" la", " le"), {"“la”", "“le”", "beginnings of words"}),
        ("token before", ("(",), {"after “(”", "after signs"}),
        ("end of three", ("ing",), {"“…ing”"}),
        ("word so far", ("нет", "да"), {"“нет”", "“да”", "Cyrillic letters"}),
        ("token", ("\n",), {"line breaks"}),
        ("letters of the word", ("two letters",), set()),
    ],
)
def test_what_a_predicate_says(family: str, values: tuple[str, ...], words: set[str]) -> None:
    assert set(regions.said(family, values)) == words


def test_half_of_the_values_make_a_kind() -> None:
    assert "months" in regions.said("word piece", ("january", "march", "x", "y"))
    assert "months" not in regions.said("word piece", ("january", "x", "y"))


def test_the_shipped_map_has_names_on_it_and_an_older_workspace_none(
    nano_home: Path, tmp_path: Path
) -> None:
    ws, sae = Workspace("nano", nano_home), "L2-1024"
    found = regions.regions(ws, sae, 320.0)
    table = feature_tables.features(ws, sae)
    named = alike.labels(ws, sae).named.sum()
    assert 3 <= len(found) <= regions.MOST
    for region in found:
        assert table.x.min() <= region.x <= table.x.max()
        assert all(
            here > everywhere
            for here, everywhere in zip(region.shares, region.overall, strict=True)
        )
        assert regions.LEAST <= region.features < named / 2
    assert regions.named(alike.labels(ws, sae).head(0).assign(x=[], y=[])) == []
    assert regions.regions(plant(tmp_path), "L20-12", 320.0) == []
