"""Ask for features as `features find` and the API do: by a word, a sentence or a direction."""

from typing import TYPE_CHECKING, Any

from core.errors import StitchLensError
from core.features import queries, search
from core.features import tables as feature_tables
from core.models.pairs import PairSpec
from core.steering.sources import source_from
from core.workspace.store import Workspace

if TYPE_CHECKING:
    from core.features.measure import Live
    from core.steering.studio import Studio

About = dict[int, dict[str, float | str]]
"""What a question says of each feature that it finds, the best first."""
WHERE = ("a", "b", "both")
NOT_MOVED = "No feature fires on it in that model."


def measured_sae(ws: Workspace, sae: str | None) -> str:
    """The SAE of that name, or the first one whose features were measured. Raises StitchLensError
    where there is none."""
    names = feature_tables.saes(ws) if ws.exists else []
    if not names:
        raise StitchLensError(
            f"no features in workspace '{ws.pair}'",
            "measured ones",
            f"run `python -m core features build {ws.pair}`",
        )
    return sae or names[0]


def check_where(where: str) -> None:
    """Raises StitchLensError where a sentence cannot be looked for there."""
    if where not in WHERE:
        raise StitchLensError(f"--in {where}", "a, b or both", "choose one")


def by_word(ws: Workspace, pair: PairSpec, sae: str, query: str, most: int) -> About:
    """Features with it in their label, at their peaks or around them; `found_in` says where."""
    found = search.in_words(ws, sae, query, pair.corpus, most)
    return {feature: {"found_in": place} for feature, place in found.items()}


def by_sentence(
    live: "Live",
    ws: Workspace,
    sae: str,
    text: str,
    where: str = "both",
    most: int = search.MOST,
) -> About:
    """Features that a sentence moves, and how far; both models read it."""
    check_where(where)
    table = feature_tables.features(ws, sae)
    moved = search.by_sentence(live.peaks(text), table, where, most)  # type: ignore[arg-type]
    about: About = {}
    for feature, score, share_a, share_b in moved:
        about[feature] = {"score": score, "share_a": share_a, "share_b": share_b}
    return about


def by_direction(
    studio: "Studio",
    sae: str,
    source: str,
    most: int = search.MOST,
) -> About:
    """Features whose decoder rows lie nearest to a direction, in the model that learned it."""
    from core.steering.nearest import nearest_features

    near = nearest_features(studio, sae, source_from(source), most)
    return {feature: {"cosine": cosine} for feature, cosine in near.items()}


def answer(
    ws: Workspace,
    pair: PairSpec,
    sae: str,
    query: str,
    about: About,
    in_words: bool,
) -> dict[str, Any]:
    """The record of `features find`: a row for each feature of `about` or why there is none, and a
    `caution` where none of them is of the word itself."""
    rows = search.results(ws, sae, list(about))
    record: dict[str, Any] = {
        "pair": pair.key,
        "sae": sae,
        "query": query,
        "results": [row | dict(about[row["feature"]]) for row in rows],
    }
    if in_words and (caution := queries.caution(row["found_in"] for row in record["results"])):
        record["caution"] = caution
    if not rows:
        unknown = search.unknown(ws, sae, query, pair.corpus) if in_words else NOT_MOVED
        record["empty"] = unknown
    return record
