"""Self-contained HTML pages of tables and figures."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; its cells are HTML."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def image(path: Path, *, small: bool = False) -> str:
    """A PNG file as part of the page, over its whole width or, if `small`, less."""
    data = base64.b64encode(path.read_bytes()).decode()
    width = "min(100%, 46em)" if small else "100%"
    return f'<img alt="{path.stem}" style="width:{width}" src="data:image/png;base64,{data}">'


def page(title: str, sections: Sequence[str]) -> str:
    """A self-contained page."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>"
        "body{font:16px/1.5 system-ui,sans-serif;max-width:76em;margin:2em auto;padding:0 1em}"
        "table{border-collapse:collapse;margin:1em 0;font-size:14px}"
        "td,th{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:left}"
        "img{display:block;margin:.5em 0}h2{margin-top:2em;border-bottom:2px solid #888}"
        f"</style></head><body><h1>{html.escape(title)}</h1>" + "".join(sections) + "</body></html>"
    )
