"""Every figure can be saved, as PNG and as SVG, under a name that says what it is of."""

import re
from contextvars import ContextVar
from typing import Any

import streamlit as st

OF: ContextVar[tuple[str, ...]] = ContextVar("of", default=())
LONGEST = 120
"""Characters of a file's name."""
SCALE = 2
"""Pixels of a PNG for each one on screen."""
BUTTONS = """<script>
if (!window.stitchlensSaving) {
  window.stitchlensSaving = true;

  const named = (button, format) => {
    button.dataset.format = format;
    button.textContent = format;
    button.style.cssText = "color: inherit; font: inherit; font-size: 0.75rem;";
    for (const name of ["aria-label", "data-title"]) button.setAttribute(name, `Save as ${format}`);
  };

  const second = event => {
    const plot = event.target.closest?.(".js-plotly-plot");
    const png = plot?.querySelector(".modebar-btn:not([data-format])");
    if (!png) return;
    const svg = png.cloneNode(true);
    named(png, "PNG");
    named(svg, "SVG");
    png.after(svg);
    svg.addEventListener("click", () => {
      const options = plot._context.toImageButtonOptions;
      options.format = "svg";
      png.click();
      options.format = "png";
    });
  };

  document.addEventListener("pointerover", second, true);
  document.addEventListener("focusin", second, true);
}
</script>"""
"""The button that Plotly draws saves a PNG. A second one, which asks the first for an SVG, is put
beside it when a figure is first pointed at: Plotly takes a button's work from scripts alone."""


def begin(*of: str) -> None:
    """At a run's start: its figures are `of` nothing more than the workspace, or of these, such as
    an SAE."""
    OF.set(of)


def buttons() -> None:
    """Let every figure have both of its buttons."""
    st.html(BUTTONS, unsafe_allow_javascript=True)


def settings(figure: str) -> dict[str, Any]:
    """Plotly's: two buttons in a figure's corner while it is pointed at or has the keyboard's
    focus, which save it."""
    return {
        "displayModeBar": "hover",
        "modeBarButtons": [["toImage"]],
        "displayNotifier": False,
        "scrollZoom": False,
        "toImageButtonOptions": {
            "format": "png",
            "filename": file_name(figure),
            "scale": SCALE,
        },
    }


def file_name(figure: str) -> str:
    """Without its ending: the pair, what the page shows of it, the figure."""
    parts = [str(st.session_state.get("pair", "")), *OF.get(), figure]
    return re.sub(r"[^\w.-]+", "-", "-".join(filter(None, parts))).strip("-.")[:LONGEST]
