"""Ways over surfaces: marks that can be counted, and arrows where a way leaves the map."""

import numpy as np
import pytest
from PIL import Image

from learned_opt.figures import surfaces
from learned_opt.figures.style import STYLES
from learned_opt.tasks import Surface

SADDLE = Surface("saddle")
STEPS = np.linspace(0, 1, 61)[:, None]
INSIDE = np.array([-1.5, 0.0]) + STEPS * np.array([2.0, 1.0])


def draw(points, monkeypatch, tmp_path):
    """The axes of one panel."""
    figures = []
    monkeypatch.setattr(surfaces, "save", lambda figure, *a, **k: figures.append(figure))
    panel = surfaces.Panel(SADDLE, "adam", points, "rate 0.1: 2", "Adam")
    surfaces.trajectories([panel], tmp_path / "ways.png", columns=1)
    return figures[0].axes[0]


def test_there_is_a_mark_every_ten_updates(monkeypatch, tmp_path):
    axis = draw(INSIDE, monkeypatch, tmp_path)
    marked = [line for line in axis.get_lines() if line.get_color() == STYLES["adam"][0]]
    way, dots, rings = marked
    np.testing.assert_allclose(way.get_xydata(), INSIDE)
    np.testing.assert_allclose(dots.get_xydata(), INSIDE[[10, 20, 30, 40, 60]])
    np.testing.assert_allclose(rings.get_xydata(), INSIDE[[0, 50]])
    assert not axis.texts
    assert axis.get_title() == "rate 0.1: 2" and axis.get_ylabel() == "Adam"


@pytest.mark.parametrize(
    ("points", "leaves"),
    [
        (np.concatenate([INSIDE[:20], [[1e30, np.inf], [np.nan, np.nan]]]), 20),
        (np.concatenate([INSIDE[:20], [[9.0, 0.0]] * 10]), 20),
        (np.concatenate([INSIDE[:5], [[9.0, 0.0]], INSIDE[:20], [[0.0, -9.0]] * 10]), 26),
        (np.concatenate([INSIDE[:5], [[9.0, 0.0]], INSIDE]), None),  # it comes back
    ],
)
def test_a_way_that_leaves_the_map_has_an_arrow_with_the_update(
    points, leaves, monkeypatch, tmp_path
):
    axis = draw(points, monkeypatch, tmp_path)
    texts = [text.get_text() for text in axis.texts]
    assert texts == ([] if leaves is None else ["", str(leaves)])


def test_a_panel_a_way(tmp_path):
    panels = [
        surfaces.Panel(Surface(name), rule, INSIDE, name)
        for rule in ("adam", "muon")
        for name in ("rosenbrock", "saddle", "ravine")
    ]
    surfaces.trajectories(panels, tmp_path / "ways.png", columns=3)
    with Image.open(tmp_path / "ways.png") as image:
        assert image.mode == "P" and image.width > image.height
        assert len(np.unique(np.asarray(image))) > 10
