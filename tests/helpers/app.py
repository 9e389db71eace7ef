"""The app's pages run by Streamlit's own test runner."""

from functools import cache
from typing import Any

from streamlit.testing.v1 import AppTest

from core.workspace.places import PROJECT

FOLDERS = {"training": "saes", "pair": "models"}
"""Of pages whose address is not their topic's name."""


def opened(page: str = "", **query: str | list[str]) -> AppTest:
    """A page as a link opens it, the first one for ''."""
    app = AppTest.from_file(str(PROJECT / "pages" / "main.py"), default_timeout=200)
    for key, value in query.items():
        app.query_params[key] = value
    if page:
        # Streamlit's runner learns pages from a run of the first one, which is long.
        app._registered_pages = _pages()
        app.switch_page(f"{FOLDERS.get(page, page)}/page.py")
    return app.run()


@cache
def _pages() -> Any:
    """The pages that the app registers, as Streamlit's runner keeps them. The first page opens its
    models in the background, and who loads another one waits for that: nano's are small."""
    return opened(pair="nano")._registered_pages


def text(app: AppTest) -> str:
    """All that the page says."""
    parts = (
        app.title,
        app.header,
        app.subheader,
        app.markdown,
        app.caption,
        app.error,
        app.warning,
        app.code,
    )
    return "\n".join(str(element.value) for part in parts for element in part)


def pressed(app: AppTest, label: str) -> AppTest:
    """The page after its first button of that name was pressed."""
    return next(button for button in app.button if button.label == label).click().run()
