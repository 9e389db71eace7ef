"""Every table and figure of the paper: what it found, what this workspace found, and where to see
it."""

import tomllib
from pathlib import Path
from typing import Any

import streamlit as st

from core.errors import StitchLensError
from core.models.pairs import get_pair
from core.report import report
from core.workspace.store import Workspace
from pages.paper.ours import sentence
from pages.shared import frame, panels
from pages.shared.frame import ask, section
from pages.shared.glossary import PAPER
from pages.shared.words import plain, short_names

RESULTS = Path(__file__).with_name("paper.toml")
ADDRESSES = {
    "stitches": ("stitches/page.py", "Stitches"),
    "features": ("features/page.py", "Features"),
    "functional": ("functional/page.py", "Functional features"),
    "steering": ("steering/page.py", "Steering"),
    "probes": ("probes/page.py", "Probes"),
    "training": ("saes/page.py", "SAE training"),
}
"""By the `page` of a result: its script and its title."""
WHERE = {"steering": {"tab": "Evaluation"}}
"""Where on a page it stands."""


def page() -> None:
    ws = frame.workspace()
    with section():
        pair = get_pair(ws.pair)
        st.title("The paper, result by result")
        st.markdown(
            f"What [*Transferring Features Across Language Models With Model Stitching*]({PAPER})"
            f" found, and what came out for {plain(pair.title)}, the models here. Theirs are"
            " Pythia 70M and 160M, GPT-2 small and medium, Gemma-2 2B and 9B."
        )
        if not ws.exists:
            panels.door(
                f"**No workspace for {plain(pair.title)} yet.** Building one measures the first of"
                " these results.",
                f"python -m core build {pair.key}",
            )
            return
        for number, result in enumerate(ask(results, ws)):
            row(number, result, ws)


def results(ws: Workspace) -> list[dict[str, Any]]:
    """The paper's results in its order, each with `ours`: what the workspace holds of it in words,
    empty where it holds nothing."""
    measured = report(get_pair(ws.pair))
    names = {side: plain(name) for side, name in short_names(get_pair(ws.pair)).items()}

    rows = tomllib.loads(RESULTS.read_text("utf-8"))["result"]
    for result in rows:
        result["stitch"] = measured.get("default_stitch") or "STITCH"
        try:
            result["ours"] = sentence(result["where"], ws, measured, names)
        except StitchLensError as e:  # one artifact that is damaged leaves the others readable
            result["ours"] = plain(e)
    return rows


def row(number: int, result: dict[str, Any], ws: Workspace) -> None:
    with st.container(border=True, key=f"result-{number}"):
        about, theirs, ours = st.columns([3, 4, 5], gap="medium")
        about.markdown(f"**{plain(result['shows'])}**  \n:small[{plain(result['where'])}]")
        theirs.markdown(f":small[The paper]  \n{plain(result['theirs'])}")

        command = result["command"].replace("PAIR", ws.pair).replace("STITCH", result["stitch"])
        if result.get("absent"):
            ours.markdown(f":small[Here]  \n{plain(result['absent'])}.")
            return
        if not result["ours"]:
            ours.markdown(":small[Here]  \nNot measured yet. This does:")
            ours.code(f"python -m core {command}", language=None)
            return

        script, title = ADDRESSES[result["page"]]
        ours.markdown(f":small[Here]  \n{result['ours']}")
        ours.page_link(
            script,
            label=title,
            icon=":material/arrow_forward:",
            query_params={"pair": ws.pair} | WHERE.get(result["page"], {}),
        )


page()
