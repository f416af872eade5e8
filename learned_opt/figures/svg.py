"""Small SVG files: matplotlib's, without what a reader does not see."""

import itertools
import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

SETTINGS = {  # of matplotlib: text stays text, and equal figures are equal files
    "svg.fonttype": "none",
    "svg.hashsalt": "learned_opt",
}
_TOKENS = re.compile(r"[A-Za-z]|-?\d+(?:\.\d+)?(?:e-?\d+)?")
_REFERENCE = re.compile(r"#(\w+)")
_COUNTS = {"M": 2, "L": 2, "Q": 4, "C": 6, "z": 0}
_CIRCLE = re.compile(r"M 0 ([\d.]+) (C [^CLz]*){8}z")  # a marker "o" of that radius
_LINE = re.compile(r"M (\S+) (\S+) L (\S+) (\S+)")  # a tick, or a marker "|"


def compact(text: str) -> str:
    """Shortens an SVG file that matplotlib wrote: a tenth of the size, the same picture.

    Coordinates are rounded to a tenth of a point and relative; styles that are there more than once
    become classes; circles of one colour become dots of one path; metadata, empty groups and names
    that nothing refers to are left out.

    Args:
      text: the file, written under `SETTINGS`.

    Returns:
      An SVG file in one line.
    """
    root = ElementTree.fromstring(text)
    for element in root.iter():
        element.tag = element.tag.partition("}")[2]
        element.text = (element.text or "").strip() or None
        element.tail = None
        for name in [n for n in element.attrib if "}" in n]:
            element.set(name.partition("}")[2], element.attrib.pop(name))
    _drop_unseen(root)
    markers = {e.get("id"): " ".join(e.get("d", "").split()) for e in root.iter("path")}
    _draw_markers(root, markers)
    _shorten_names(root)
    _flatten(root)
    _join_lines(root)
    for element in root.iter():
        _shorten(element)
    _classify(root)
    del root.attrib["version"]
    root.set("xmlns", "http://www.w3.org/2000/svg")
    root.set("stroke-linejoin", "round")
    root.set("font-family", "DejaVu Sans,Verdana,Arial,sans-serif")
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _drop_unseen(parent: Element) -> None:
    for child in list(parent):
        empty = child.tag == "path" and not child.get("d")
        if empty or child.tag in ("metadata", "style") or "nan" in (child.get("x"), child.get("y")):
            parent.remove(child)
        _drop_unseen(child)


def _draw_markers(parent: Element, markers: Mapping[str | None, str]) -> None:
    """Makes paths of markers: circles are points with round caps, ticks are lines."""
    for child in parent:
        _draw_markers(child, markers)
    for n, use in enumerate(parent):
        if use.tag != "use":
            continue
        marker, style = markers.get(use.get("href", "#")[1:], ""), use.get("style", "")
        x, y = float(use.get("x", 0)), float(use.get("y", 0))
        path = Element("path")
        if (circle := _CIRCLE.fullmatch(marker)) and "stroke:" not in style:  # has no edge
            described = dict(_declarations(style))
            color = described.get("fill", "#000000")  # matplotlib leaves black out
            opacity = described.get("fill-opacity", "1")
            path.set("d", f"M {x} {y} L {x} {y}")
            path.set(
                "style",
                f"fill: none; stroke: {color}; stroke-opacity: {opacity}; "
                f"stroke-width: {2 * float(circle[1]):.1f}; stroke-linecap: round",
            )
        elif line := _LINE.fullmatch(marker):
            begin_x, begin_y, end_x, end_y = map(float, line.groups())
            path.set("d", f"M {x + begin_x} {y + begin_y} L {x + end_x} {y + end_y}")
            path.set("style", f"fill: none; {style}")
        else:
            continue
        parent[n] = path


def _join_lines(parent: Element) -> None:
    """Makes one path of lines of one style that have nothing but lines and text between them."""
    kept: list[Element] = []
    lines: dict[tuple[str | None, str | None], Element] = {}
    for child in parent:
        _join_lines(child)
        style = child.get("style", "")
        if child.tag == "path" and "fill: none" in style and "id" not in child.attrib:
            key = (style, child.get("clip-path"))
            if key in lines:
                lines[key].set("d", f"{lines[key].get('d')} {child.get('d')}")
                continue
            lines[key] = child
        elif child.tag != "text":
            lines = {}
        kept.append(child)
    parent[:] = kept


def _shorten_names(root: Element) -> None:
    """Names that something refers to become letters, the others go."""
    used = {
        name: short
        for short, name in zip(
            _letters(),
            dict.fromkeys(
                name
                for element in root.iter()
                for key, value in element.attrib.items()
                if key in ("href", "clip-path")
                for name in _REFERENCE.findall(value)
            ),
            strict=False,
        )
    }
    for element in root.iter():
        name = element.attrib.pop("id", None)
        if name in used:
            element.set("id", used[name])
        for key in ("href", "clip-path"):
            if key in element.attrib:
                value = element.attrib[key]
                element.set(key, _REFERENCE.sub(lambda m: "#" + used[m[1]], value))


def _letters() -> Iterator[str]:
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_lowercase, repeat=length))


def _shorten(element: Element) -> None:
    """Rounds an element's numbers and leaves out what is said once for all."""
    for key in ("x", "y", "width", "height"):
        if key in element.attrib:
            element.set(key, _short(element.attrib[key].removesuffix("pt")))
    if "d" in element.attrib:
        element.set("d", _path(element.attrib["d"]))
    transform = element.attrib.pop("transform", "")
    if transform and not transform.startswith("rotate(-0 "):
        element.set("transform", re.sub(r"-?\d+\.\d+", lambda m: _short(m[0], 2), transform))
    style = [
        f"{name}:{value}"
        for name, value in _declarations(element.attrib.pop("style", ""))
        if name != "font-family"
    ]
    clip = element.attrib.pop("clip-path", None)
    if clip:
        style.append(f"clip-path:{clip}")
    if style:
        element.set("style", ";".join(style))


def _declarations(style: str) -> Iterator[tuple[str, str]]:
    for part in style.split(";"):
        name, _, value = part.partition(":")
        if value:
            yield name.strip(), value.strip()


def _path(d: str) -> str:
    """A path with relative coordinates, rounded without adding the errors up."""
    found, at, start, last = "", (0, 0), (0, 0), ""
    tokens = iter(_TOKENS.findall(d))
    for command in tokens:
        ends = [round(10 * float(next(tokens))) for _ in range(_COUNTS[command])]
        steps = [_short((end - at[n % 2]) / 10) for n, end in enumerate(ends)]
        if command == "z":
            at = start
        else:
            at = (ends[-2], ends[-1])
            start = at if command == "M" else start
        letter = command.lower()
        if command == "L" and "0" in steps:
            letter, steps = ("h", steps[:1]) if steps[1] == "0" else ("v", steps[1:])
        repeated = letter == last and command != "M"  # its letter need not be said again
        found += (" " if repeated else letter) + " ".join(steps)
        last = letter
    return found.replace(" -", "-")


def _short(value: str | float, digits: int = 1) -> str:
    """A number as short as it can be written: .5 and -.5."""
    text = f"{float(value):.{digits}f}".rstrip("0").rstrip(".")
    text = "0" if text in ("", "-0") else text
    return re.sub(r"^(-?)0\.", r"\1.", text)


def _flatten(parent: Element) -> None:
    """Puts the children of groups into their place, clipped like the group."""
    children: list[Element] = []
    for child in parent:
        _flatten(child)
        # What has coordinates of its own is clipped in them: its group stays.
        moved = any(e.tag == "use" or "transform" in e.attrib for e in child)
        if child.tag == "g" and set(child.attrib) <= (set() if moved else {"clip-path"}):
            for grandchild in child:
                grandchild.attrib = child.attrib | grandchild.attrib
            children += list(child)
        elif child.tag not in ("g", "defs") or len(child):
            children.append(child)
    parent[:] = children


def _classify(root: Element) -> None:
    """Styles that are there more than once become classes."""
    counts = Counter(e.get("style") for e in root.iter() if e.get("style"))
    classes = {
        style: name
        for name, style in zip(_letters(), [s for s, n in counts.items() if n > 1], strict=False)
    }
    for element in root.iter():
        if element.get("style") in classes:
            element.set("class", classes[element.attrib.pop("style")])
    if classes:
        sheet = Element("style")
        sheet.text = "".join(f".{name}{{{style}}}" for style, name in classes.items())
        root.insert(0, sheet)
