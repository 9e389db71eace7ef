"""Every word of the field that pages use, once, with its place in the paper."""

import streamlit as st

from pages.shared import glossary
from pages.shared.glossary import PAPER, Term
from pages.shared.words import plain


def page() -> None:
    st.title("Glossary")
    st.markdown(
        "The words of the field as they are used here. Each stands beside its label on the other"
        f" pages too. Numbers lead to sections and figures of [the paper]({PAPER})."
    )
    links = [f"[{title}](#{topic})" for topic, title in glossary.topics().items()]
    st.markdown(" · ".join(links))

    for topic, title in glossary.topics().items():
        st.subheader(title, anchor=topic)
        terms = [term for term in glossary.terms() if term.topic == topic]
        st.markdown("\n".join(entry(term) for term in terms))


def entry(term: Term) -> str:
    """A line of a list in markdown."""
    where = f" :small[[({plain(term.where)})]({PAPER})]" if term.where else ""
    return f"- **{plain(term.name)}**: {plain(term.says)}{where}"


page()
