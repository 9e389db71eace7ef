"""For `make docs`: docstrings are plain text with `code`, not Markdown.

Shapes such as [n, d_A] [n, d_B] would be taken for links, and <bos> for HTML.
"""

import re
from typing import Any

import griffe


class PlainDocstrings(griffe.Extension):
    """Escapes what is no `code` and no indented block in every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)


def plain(text: str) -> str:
    """A docstring as Markdown that shows it as it is."""
    parts = re.split(r"(`[^`]+`|^ {4}.*$)", text, flags=re.MULTILINE)
    parts[::2] = [re.sub(r"([\\\[\]*])", r"\\\1", part.replace("<", "&lt;")) for part in parts[::2]]
    return "".join(parts)
