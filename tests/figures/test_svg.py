"""Compact SVG files against the files of matplotlib: the same marks at the same places."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from learned_opt.figures import studies as study_plots
from learned_opt.figures import svg
from learned_opt.figures.style import make_panels, save

NAMESPACE = "{http://www.w3.org/2000/svg}"


def absolute(d):
    """The points of a compact path, by adding its steps up."""
    points, at, start = [], np.zeros(2), np.zeros(2)
    counts = {"m": 2, "l": 2, "h": 1, "v": 1, "c": 6, "q": 4, "z": 0}
    for letter, numbers in re.findall(r"([a-z])([^a-z]*)", d):
        values = [float(x) for x in re.findall(r"-?(?:\d+\.\d+|\.\d+|\d+)", numbers)]
        if letter == "z":
            at = start
        for n in range(0, len(values), counts[letter] or 1):
            step = values[n : n + counts[letter]]
            if letter == "h":
                at = at + [step[0], 0]
            elif letter == "v":
                at = at + [0, step[0]]
            else:
                at = at + step[-2:]
            start = at if letter == "m" else start
            points.append(at)
    return np.array(points)


@pytest.fixture
def figure():
    """A line of many points, dots with and without an edge, a band, and what is not finite."""
    rng = np.random.default_rng(0)
    figure, (axis,) = make_panels(1, xlabel="x < y & z", ylabel="")
    axis.plot(np.arange(100), np.cumsum(rng.normal(size=100)), color="#123456")
    axis.plot(rng.uniform(0, 99, 30), rng.normal(size=30), "o", color="#654321", mew=0)
    axis.plot([50, np.nan], [0, 0], "o", color="#ABCDEF")
    axis.fill_between([10, 90], [-5, -5], [5, 9], color="#00FF00", linewidth=0)
    return figure, axis


def test_points_are_where_they_were(figure, tmp_path):
    figure, axis = figure
    save(figure, tmp_path / "small.svg")
    text = (tmp_path / "small.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    sheet = root.find(f"{NAMESPACE}style").text
    styles = dict(re.findall(r"\.(\w+)\{([^}]*)\}", sheet))

    def paths(color):
        for path in root.iter(f"{NAMESPACE}path"):
            style = styles.get(path.get("class"), "") + path.get("style", "")
            if f"stroke:{color}" in style:
                yield absolute(path.get("d"))

    height = 72 * figure.get_size_inches()[1]
    for line, color in ((axis.lines[0], "#123456"), (axis.lines[1], "#654321")):
        pixels = axis.transData.transform(line.get_xydata()) * 72 / figure.dpi
        expected = np.column_stack([pixels[:, 0], height - pixels[:, 1]])
        (found,) = paths(color)
        if color == "#654321":  # a dot is a line from a point to itself
            np.testing.assert_allclose(found[::2], found[1::2])
            found = found[::2]
        np.testing.assert_allclose(found, expected, atol=0.051 + 1e-6)
    assert "x &lt; y &amp; z" in text and "nan" not in text.lower()
    assert text.count("<use") == 2  # the dot with an edge, and the band


def test_it_is_the_same_file_each_time_and_small(tmp_path):
    rng = np.random.default_rng(0)
    panels = {
        name: (10 ** rng.uniform(-5, 0, 50), 10 ** rng.uniform(0, 2, 50), "log")
        for name in ("eps", "learning_rate/eps", "one_minus_b1", "one_minus_b2", "a", "b")
    }
    study_plots.projections(panels, tmp_path / "a.svg", ylabel="error, %")
    study_plots.projections(panels, tmp_path / "b.svg", ylabel="error, %")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.svg").stat().st_size < 13_000  # 48 of them fit into a page of 1 MB


def test_what_is_referred_to_is_there(figure, tmp_path):
    figure, axis = figure
    save(figure, tmp_path / "small.svg")
    text = (tmp_path / "small.svg").read_text(encoding="utf-8")
    names = re.findall(r' id="(\w+)"', text)
    referred = re.findall(r'href="#(\w+)', text) + re.findall(r"url\(#(\w+)", text)
    assert len(set(names)) == len(names) and set(names) == set(referred)


def test_paths_are_rounded_without_drift():
    rng = np.random.default_rng(1)
    points = np.cumsum(rng.normal(size=(5000, 2)), axis=0)
    d = "M " + " L ".join(f"{x:.6f} {y:.6f}" for x, y in points)
    found = absolute(svg._path(d))
    np.testing.assert_allclose(found, points, atol=0.0501)
    assert svg._path("M 1 1 L 1 5 L 3 5 L 3 6 z L 0 0") == "m1 1v4h2v1zl-1-1"


def test_black_dots_stay_black(tmp_path):
    figure, (axis,) = make_panels(1, xlabel="", ylabel="")
    axis.plot([1, 2], [3, 4], "o", color="black", mew=0)
    save(figure, tmp_path / "dots.svg")
    text = (tmp_path / "dots.svg").read_text(encoding="utf-8")
    assert len(re.findall(r"stroke:#000000;[^}\"]*stroke-linecap:round", text)) == 1
