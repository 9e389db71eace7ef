"""What crossing costs in Markdown: Table 1 by kind of text, and how stitches were chosen."""

from collections.abc import Mapping, Sequence

from core.cli.tables import Names, Record, as_table, with_names
from core.cli.words import fixed, number, percent, plain
from core.stitches import conditions

QUALITY = ("fuv_up", "fuv_down", "inversion_a", "inversion_b")
"""Of a stitch, in the order of its table."""


def crossing_costs(measured: Record, names: Names) -> list[str]:
    stitches, corpus, paired = measured["stitches"], measured["corpus"], measured["alignment"]
    parts = [
        f"Corpus `{corpus['name']}`, {corpus['documents']:,} documents of"
        f" {corpus['characters']:,} characters. Held-out tokens with a counterpart in the other"
        f" model: {percent(paired['share_a'])} of {names['a']}'s, {percent(paired['share_b'])} of"
        f" {names['b']}'s."
    ]
    for name, stitch in stitches.items():
        parts += _losses(name, stitch, names)

    rows = [
        (
            plain(name),
            f"{int(stitch['quality'].get('n_fit', 0)):,}",
            *(number(stitch["quality"][key]) for key in QUALITY),
        )
        for name, stitch in stitches.items()
        if "quality" in stitch
    ]
    header = "stitch | positions of the fit | FUV, A→B | FUV, B→A | inversion error, A | of B"
    parts += as_table(with_names(header, names), rows)

    if sweep := measured.get("alpha_sweep"):
        about = f"**Strength of inversion** (Fig. 7), stitch {plain(sweep[0]['stitch'])}"
        parts += [f"{about}, increases on the select split:", *_fits(sweep, names)]
    if study := measured.get("study"):
        place = f"L{study[0]['layer_a']}-L{study[0]['layer_b']}"
        parts += [f"**How to fit**, {place}, increases on the select split:", *_fits(study, names)]
    return parts


def _losses(
    name: str,
    stitch: Record,
    names: Names,
) -> list[str]:
    """Table 1 with its controls, a kind of text a column; the mean over all of it last."""
    method, metric = _method(stitch)
    about = f"**Stitch {plain(name)}**: {method}, errors measured in {metric}"
    if "downstream" not in stitch:
        return [f"{about}. Its losses were not measured."]

    scored = stitch["downstream_details"]
    details: dict[str, Record] = stitch.get("downstream_by_kind_details", {})
    kinds = {kind: stitch["downstream_by_kind"][kind] for kind in details}
    rows = []
    for condition in (c for c in conditions.CONDITIONS if c.key in scored):
        key, every = condition.key, scored[condition.key]
        increases = [percent(x[key] / x[condition.model] - 1, sign=True) for x in kinds.values()]
        increases.append(
            percent(every["relative"], every["relative_low"], every["relative_high"], True)
        )
        if condition.role == "unpatched":
            increases = [""] * len(increases)
        rows.append(
            (
                with_names(condition.label, names),
                *(fixed(x[key]) for x in list(kinds.values())[:1]),
                *increases,
                fixed(stitch["downstream"][key], every["low"], every["high"]),
                f"{every['bits_per_byte']:.2f}",
            )
        )

    about += f", α {stitch['alpha']:g}; {int(scored['a_to_b']['documents'])} held-out documents."
    first = [f"loss, {plain(kind)}" for kind in list(kinds)[:1]]
    columns = [*first, *map(plain, kinds), "all text", "loss, all text", "bits/byte"]
    return [
        about + _crossed(details, scored, names),
        *as_table(" | ".join(["model", *columns]), rows),
    ]


def _crossed(
    kinds: Mapping[str, Record],
    scored: Record,
    names: Names,
) -> str:
    """A sentence: how many of each model's positions are replaced, by kind of text."""
    shares = [
        f"{percent(kinds[kind]['crossed_a'])} and {percent(kinds[kind]['crossed_b'])} of"
        f" {plain(kind)}"
        for kind in kinds
    ]
    every = " and ".join(percent(scored[key]["share_patched"]) for key in ("b_to_a", "a_to_b"))
    shares.append(f"{every} of all text")
    return f" Positions that crossed, {names['a']}'s and {names['b']}'s: {'; '.join(shares)}."


def _fits(measured: Sequence[Record], names: Names) -> list[str]:
    """Relative losses of stitches that were fitted to choose one, a row each."""
    columns = [conditions.BY_KEY[key] for key in conditions.STITCHED]
    rows = [
        (
            *(_method(fit) if "method" in fit else ()),
            f"{fit['alpha']:g}",
            *(percent(fit[c.key] / fit[c.model] - 1, sign=True) for c in columns),
        )
        for fit in measured
    ]
    header = " | ".join(["α", *(with_names(c.label, names) for c in columns)])
    return as_table(f"method | metric | {header}" if "method" in measured[0] else header, rows)


def _method(makers: Record) -> tuple[str, str]:
    """In words: how a stitch was fitted, and in which units."""
    method, metric = makers["method"], makers["metric"]
    in_words = (
        conditions.METHODS.get(method, (method,)),
        conditions.METRICS.get(metric, (metric,)),
    )
    return plain(in_words[0][0]), plain(in_words[1][0])


def in_short(measured: Record, names: Names) -> str:
    """What crossing costs by kind of text, for the first stitch alone: a table of four rows."""
    stitch = measured["stitches"][measured["default_stitch"]]
    kinds: Mapping[str, Record] = stitch["downstream_by_kind_details"]
    a, b = names["a"], names["b"]

    rows = [
        (label, *(percent(kind[key], sign=sign) for kind in kinds.values()))
        for label, key, sign in (
            (f"{b}'s loss, going on from {a}", "a_to_b_relative", True),
            ("its positions that crossed", "crossed_b", False),
            (f"{a}'s loss, going on from {b}", "b_to_a_relative", True),
            ("its positions that crossed", "crossed_a", False),
        )
    ]
    return "\n\n".join(as_table(" | ".join([measured["default_stitch"], *map(plain, kinds)]), rows))
