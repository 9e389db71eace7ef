"""The OpenAPI description as a page of its own: it asks nothing of the web."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any
from urllib.parse import quote, urlencode

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9em; }
pre { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: 0.2rem 1rem 0.2rem 0; }
section { border-top: 1px solid #8888; }
"""
EXAMPLES: Mapping[str, Mapping[str, str]] = {
    "features": {"sort": "agreement", "limit": "5"},
    "find": {"q": "French"},
    "cross": {"text": "The house of my mother", "control": "none"},
}
"""What an example asks, by operation."""
IN_PATH = {"pair": "nano", "feature": "7"}

Schema = Mapping[str, Any]


def of(openapi: Schema) -> str:
    """The page, as HTML."""
    info = openapi["info"]
    title = f"{info['title']} API {info['version']}"
    sections = [
        line
        for path, methods in openapi["paths"].items()
        for line in _section(path, methods["get"])
    ]
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>',
            f"<style>{STYLE}</style><h1>{escape(title)}</h1>",
            f"<p>{escape(info['description'])}</p>",
            '<p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>',
            *sections,
            "<h2>Answers</h2>",
            *_answers(openapi["components"]["schemas"]),
            "</html>",
        ]
    )


def example(path: str, operation: str) -> str:
    """An address that works where the nano pair is at hand."""
    for name, value in IN_PATH.items():
        path = path.replace(f"{{{name}}}", quote(value))
    asked = urlencode(EXAMPLES.get(operation, {}))
    return f"{path}?{asked}" if asked else path


def _section(path: str, get: Schema) -> Iterator[str]:
    answer = _type(get["responses"]["200"]["content"]["application/json"]["schema"])
    address = escape(example(path, get["operationId"]))
    yield f"<section><h2><code>GET {escape(path)}</code></h2>"
    yield f"<p>{escape(get['description'])}</p>"
    yield f'<p>Try <a href="{address}"><code>{address}</code></a>; answers {answer}.</p>'
    if get.get("parameters"):
        yield from _table(_parameter(one) for one in get["parameters"])
    yield "</section>"


def _parameter(one: Schema) -> tuple[str, str, str]:
    schema = one["schema"]
    usual = schema.get("default")
    needed = "needed" if one["required"] else f"{_type(schema)}; {usual} if not given"
    if usual is None and not one["required"]:
        needed = _type(schema)
    return one["name"], needed, one.get("description", "")


def _answers(schemas: Schema) -> Iterator[str]:
    for name, schema in schemas.items():
        if "properties" not in schema:
            continue
        yield f'<section id="{escape(name)}"><h3>{escape(name)}</h3>'
        yield f"<p>{escape(schema.get('description', ''))}</p>"
        rows = schema["properties"].items()
        yield from _table((key, _type(of), of.get("description", "")) for key, of in rows)
        yield "</section>"


def _table(rows: Any) -> Iterator[str]:
    yield "<table>"
    for name, kind, says in rows:
        yield f"<tr><td><code>{escape(name)}</code><td>{kind}<td>{escape(says)}"
    yield "</table>"


def _type(schema: Schema) -> str:
    """A schema in a word or two, as HTML."""
    match schema:
        case {"$ref": ref}:
            name = escape(ref.rpartition("/")[2])
            return f'<a href="#{name}">{name}</a>'
        case {"anyOf": options}:
            return " or ".join(map(_type, options))
        case {"enum": values}:
            return escape(", ".join(map(str, values)))
        case {"prefixItems": items}:
            return " and ".join(map(_type, items))
        case {"type": "array", "items": items}:
            return f"a list of {_type(items)}"
    return escape(str(schema.get("type", "anything")))
