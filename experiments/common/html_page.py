"""Self-contained HTML pages of tables and figures, with a table of contents."""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; its cells are HTML."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><tr>{top}</tr>{body}</table></div>"


def image(path: Path, caption: str, *, width: str = "100%") -> str:
    """An SVG file as part of the page.

    Args:
      path: the file, in UTF-8.
      caption: what there is to see, for those who cannot see it.
      width: its largest, in CSS.
    """
    data = path.read_text(encoding="utf-8")
    for character, code in (("%", "%25"), ("#", "%23"), ('"', "'")):
        data = data.replace(character, code)
    return (
        f'<img alt="{html.escape(caption)}" style="width:min(100%,{width})" '
        f'src="data:image/svg+xml,{data}">'
    )


def folded(title: str, body: str) -> str:
    """What is shown when the reader asks for it."""
    return f"<details><summary>{html.escape(title)}</summary>{body}</details>"


def page(title: str, introduction: str, sections: Mapping[str, str]) -> str:
    """A self-contained page.

    Args:
      title: its title.
      introduction: HTML in front of the table of contents.
      sections: heading -> HTML.
    """
    links = "".join(
        f'<li><a href="#{_anchor(heading)}">{html.escape(heading)}</a></li>' for heading in sections
    )
    body = "".join(
        f'<h2 id="{_anchor(heading)}">{html.escape(heading)}</h2>{text}'
        for heading, text in sections.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>"
        "body{font:16px/1.5 system-ui,sans-serif;max-width:76em;margin:2em auto;padding:0 1em}"
        "table{border-collapse:collapse;margin:1em 0;font-size:14px}.wide{overflow-x:auto}"
        "td,th{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:left}"
        "img{display:block;margin:.5em 0}h2{margin-top:2em;border-bottom:2px solid #888}"
        "summary{cursor:pointer;margin:.5em 0}"
        f"</style></head><body><h1>{html.escape(title)}</h1>{introduction}"
        f"<nav><ul>{links}</ul></nav>{body}</body></html>"
    )


def _anchor(heading: str) -> str:
    return re.sub(r"\W+", "-", heading.lower()).strip("-")
