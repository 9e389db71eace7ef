"""The house in figures: `python -m tests.helpers.house` prints each beside its target.

What a newcomer meets: how many names there are to tell apart, which way data flows, how full a line
is, and whether a name says what it holds.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

from core.workspace.places import PROJECT

CORE = PROJECT / "core"
VAGUE = {"found", "said", "here", "made", "mine", "kept"}
"""Locals that are words but no nouns of the field."""
SILENT = {
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.COMMENT,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def boxes() -> list[str]:
    """The boxes of core from top to bottom, as its docstring lists them."""
    doc = ast.get_docstring(ast.parse((CORE / "__init__.py").read_text("utf-8"))) or ""
    lines = re.findall(r"^    ([a-z_, ]+): ", doc, re.M)
    return [name.strip() for line in lines for name in line.split(",")]


def modules() -> dict[str, Path]:
    """Every module of core by its dotted name."""
    paths = (path for path in CORE.rglob("*.py") if not path.name.startswith("__"))
    return {".".join(path.relative_to(PROJECT).with_suffix("").parts): path for path in paths}


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING`; functions' bodies too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from running(node)


def imported(source: str) -> set[str]:
    """Dotted names of everything a module imports while it runs."""
    names: set[str] = set()
    for node in running(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def arrows(sources: dict[str, str]) -> set[tuple[str, str]]:
    """(box that imports, box that is imported) over modules of core and their texts."""
    listed = boxes()
    pairs = set()
    for module, source in sources.items():
        box = module.split(".")[1]
        others = {name.split(".")[1] for name in imported(source) if name.startswith("core.")}
        pairs |= {(box, other) for other in others if other != box and other in listed}
    return pairs


def downward(sources: dict[str, str]) -> set[tuple[str, str]]:
    """Arrows to boxes that do not stand above."""
    listed = boxes()
    return {(a, b) for a, b in arrows(sources) if listed.index(b) > listed.index(a)}


def circles(sources: dict[str, str]) -> list[list[str]]:
    """Chains of modules that import one another, functions' bodies included."""
    above = {module: imported(text) & sources.keys() - {module} for module, text in sources.items()}
    closed: list[list[str]] = []
    settled: set[str] = set()

    def follow(module: str, path: list[str]) -> None:
        if module in path:
            closed.append([*path[path.index(module) :], module])
            return
        if module in settled:
            return

        for other in sorted(above[module]):
            follow(other, [*path, module])
        settled.add(module)

    for module in sorted(above):
        follow(module, [])
    return closed


def sources() -> dict[str, str]:
    """The text of every module of core."""
    return {module: path.read_text("utf-8") for module, path in modules().items()}


def fullness(texts: list[str]) -> float:
    """Tokens a line of code, docstrings and comments left out."""
    tokens = lines = 0
    for text in texts:
        documented: set[int] = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                documented |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))

        full: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type not in SILENT and token.start[0] not in documented:
                tokens += 1
                full |= set(range(token.start[0], token.end[0] + 1))
        lines += len(full)
    return tokens / lines


def vague(texts: list[str]) -> float:
    """Share of the locals of functions that are no nouns of the field."""
    names = vague_ones = 0
    for text in texts:
        for function in ast.walk(ast.parse(text)):
            if not isinstance(function, ast.FunctionDef):
                continue
            stored = (n for n in ast.walk(function) if isinstance(n, ast.Name))
            own = {n.id for n in stored if isinstance(n.ctx, ast.Store)}
            names += len(own)
            vague_ones += len(own & VAGUE)
    return vague_ones / names


def figures() -> list[tuple[str, float, float]]:
    """(what, measured, at most) of each target."""
    paths = [*CORE.rglob("*.py"), *(PROJECT / "pages").rglob("*.py")]
    texts = [path.read_text("utf-8") for path in paths]
    names = {path.name for path in CORE.iterdir() if path.name != "__pycache__"}
    readme = (PROJECT / "README.md").read_text("utf-8")
    skips = sum(text.count("# fmt: " + "skip") for text in texts)
    return [
        ("names in core", len(names), 22),
        ("import arrows among the boxes of core", len(arrows(sources())), 130),
        ("of these downward", len(downward(sources())), 0),
        ("circles of modules", len(circles(sources())), 0),
        ("README, lines", len(readme.splitlines()), 120),
        ("README, KB", len(readme.encode()) / 1000, 8),
        ("lines that the formatter skips", skips, 20),
        # What these three are may only fall.
        ("tokens a line", fullness(texts), 8.0),
        ("vague locals, %", 100 * vague(texts), 1.2),
        ("files over 400 lines", sum(len(text.splitlines()) > 400 for text in texts), 0),
    ]


def main() -> int:
    missed = False
    for what, value, most in figures():
        missed = missed or value > most
        print(f"{what:40} {value:8.4g}   at most {most:g}{'' if value <= most else '   MISSED'}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
