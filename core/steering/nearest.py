"""Which features lie nearest to a direction: a language's, a feature's or a vector that was
brought."""

from core.features.search import MOST, nearest
from core.steering.sources import Source
from core.steering.studio import Studio


def nearest_features(
    studio: Studio,
    sae: str,
    source: Source,
    most: int = MOST,
) -> dict[int, float]:
    """(feature, cosine), the nearest first: by decoder rows of A's SAE, or of its transfer, in the
    model that learned the direction. Raises StitchLensError where there is no such SAE or
    source."""
    crossing = studio.crossing(sae)
    directions = studio.directions(source)
    side = directions.sides[0]
    layer = crossing.layers.a if side == "a" else crossing.layers.b
    vector = directions.own(side, layer).v.float().numpy()
    decoder = (crossing.sae if side == "a" else crossing.transferred).W_dec.float().numpy()
    return dict(nearest(decoder, vector, most))
