"""A directive, `program-page`, what a program says of itself: purpose, flags, config fields.

All three are read from the source, so that the page cannot differ from the program:
the module's docstring, calls of `flags.DEFINE_…`, and the comments in `DEFAULTS`.
"""

import ast
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
USUAL = {  # what is not said again in every program
    "seed": "of everything that is drawn",
    "task": "see names in configs",
    "rule": "see names in configs",
    "rules": "see names in configs",
    "num_seeds": "runs of each rule, each from a seed of its own",
    "num_steps": "updates in a run",
}


class Field(NamedTuple):
    """A field of a config, or a flag."""

    name: str
    default: str
    meaning: str


def source_of(module: str) -> Path | None:
    """The file of a module below `experiments`, None for what is not a file there."""
    path = ROOT.joinpath(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def docstring(module: str) -> str:
    """What a program says of itself."""
    path = source_of(module)
    if path is None:
        raise ValueError(f"no module {module}")
    return ast.get_docstring(parsed(path)) or ""


def imported(module: str) -> list[str]:
    """A module of `experiments` and all others of `experiments` that it imports, at its top."""
    found, waiting = [], [module]
    while waiting:
        name = waiting.pop()
        path = source_of(name)
        if path is None or name in found:
            continue
        found.append(name)
        for node in parsed(path).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("experiments"):
                waiting.append(str(node.module))
                waiting += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def flags_of(module: str) -> list[Field]:
    """The flags of a program: its own, then those of the modules that it imports."""
    found: dict[str, Field] = {}
    for name in imported(module):
        for node in ast.walk(parsed(source_of(name))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr == "DEFINE_config_file" or (
                node.func.attr.startswith("DEFINE_") and ast.unparse(node.func.value) == "flags"
            ):
                flag, default, meaning = node.args[:3]
                text = ast.literal_eval(meaning)
                shown = ast.unparse(default).removeprefix("str(").removesuffix(")")
                found[ast.literal_eval(flag)] = Field(f"--{ast.literal_eval(flag)}", shown, text)
    return list(found.values())


def fields_of(module: str, table_name: str = "DEFAULTS") -> list[Field]:
    """The fields of a table in a module, with the comments beside or above them."""
    path = source_of(module)
    if path is None:
        return []
    for node in parsed(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == table_name:
            table = next(n for n in ast.walk(node.value) if isinstance(n, ast.Dict))
            return _fields(path, table)
    return []


def _fields(path: Path, table: ast.Dict) -> list[Field]:
    text = path.read_text(encoding="utf-8")
    beside: dict[int, str] = {}
    above: dict[int, str] = {}
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            alone = lines[token.start[0] - 1].lstrip().startswith("#")
            (above if alone else beside)[token.start[0]] = token.string.lstrip("# ")
    return list(_entries(table, beside, above, ""))


def _entries(
    table: ast.Dict, beside: dict[int, str], above: dict[int, str], prefix: str
) -> Iterator[Field]:
    """The entries of a table; those of a table in it, `outer.inner`, where they have comments."""
    for key, value in zip(table.keys, table.values, strict=True):
        if key is None:
            continue  # **others: documented where they stand
        name = f"{prefix}{ast.literal_eval(key)}"
        comments, line = [], key.lineno - 1
        while line in above:
            comments.insert(0, above[line])
            line -= 1
        inside = range(value.lineno + 1, value.end_lineno or value.lineno)
        if isinstance(value, ast.Dict) and any(n in beside for n in inside):
            yield Field(name, "", " ".join(comments) or "the fields that follow")
            yield from _entries(value, beside, above, f"{name}.")
            continue
        comments += [beside[n] for n in (key.lineno, value.end_lineno) if n in beside][:1]
        default = " ".join(ast.unparse(value).split())
        yield Field(name, default, " ".join(comments) or USUAL.get(name.rpartition(".")[2], ""))


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\n", " ")


def _table(head: str, fields: list[Field]) -> str:
    rows = [f"| `{_cell(f.name)}` | `{_cell(f.default)}` | {_cell(f.meaning)} |" for f in fields]
    return "\n".join([f"| {head} | default | meaning |", "|---|---|---|", *rows])


class Program(SphinxDirective):
    """`program-page NAME`: the docstring, flags and config fields of `experiments.NAME`.

    `program-page MODULE` with a dot in it shows the config fields of any module, and with
    `:table: T` the fields of its table T alone.
    """

    required_arguments = 1
    option_spec = {"table": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """The nodes."""
        name = self.arguments[0]
        module = name if "." in name else f"experiments.{name}"
        path = source_of(module)
        if path is None:
            raise self.error(f"there is no {module}")
        self.env.note_dependency(str(path))
        if "table" in self.options:
            fields = fields_of(module, self.options["table"])
            return self.parse_text_to_nodes(_table("field", fields))
        fields = fields_of(module)
        parts = [docstring(module)]
        if "." not in name:
            parts.append(_table("flag", flags_of(module)))
        if fields:
            parts.append(_table("config field", fields))
        return self.parse_text_to_nodes("\n\n".join(parts))


class Docstring(SphinxDirective):
    """`docstring MODULE`: what a module says of itself, as Markdown."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes."""
        self.env.note_dependency(str(source_of(self.arguments[0])))
        return self.parse_text_to_nodes(docstring(self.arguments[0]).partition("\n")[2])


def escape_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keeps |x| in docstrings what it is: reStructuredText takes it for a substitution."""
    inside = 0  # the indentation of what follows '::', where nothing is changed
    for n, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent < inside:
            inside = 0
        if not inside and ".. math::" not in line and not line.lstrip().startswith(("|", ">>>")):
            parts = line.split("`")
            lines[n] = "`".join(p if k % 2 else p.replace("|", "\\|") for k, p in enumerate(parts))
        if line.rstrip().endswith("::") or ".. math::" in line:
            inside = indent + 1


def skip_fields(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out what a NamedTuple says of its fields, 'Alias for field number 0'."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers the directives."""
    app.add_directive("program-page", Program)
    app.add_directive("docstring", Docstring)
    app.connect("autodoc-process-docstring", escape_bars)
    app.connect("autodoc-skip-member", skip_fields)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
