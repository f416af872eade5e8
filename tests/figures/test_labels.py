"""Names at the ends of lines: apart, at most six, and arrows for what is off the scale."""

import itertools

import numpy as np
import pytest

from learned_opt.figures import leaderboard
from learned_opt.figures import style as figures
from learned_opt.figures.labels import MOST_LINES, label_lines, split_panels, spread


def make_figure(lines, ylim=(0, 1)):
    """A panel with lines: label -> heights."""
    figure, (axis,) = figures.make_panels(1, xlabel="", ylabel="")
    for label, heights in lines.items():
        axis.plot(np.linspace(0, 1, len(heights)), heights, label=label)
    axis.set(xlim=(0, 1), ylim=ylim)
    label_lines(figure, [axis])
    return figure, axis


def boxes(figure, axis):
    """Text -> its box in pixels."""
    figure.draw_without_rendering()
    return {text.get_text(): text.get_window_extent() for text in axis.texts}


@pytest.mark.parametrize(
    "wanted", [[0.5, 0.5, 0.5], [0.9, 0.1, 0.11], [0, 0, 1, 1], [1.0], [], [0.2, 0.19, 0.3, 0.9]]
)
def test_spread_keeps_the_order_and_the_gap(wanted):
    found = spread(wanted, 0.1, 0, 1)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(found[order]) >= 0.1 - 1e-12).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_spread_leaves_alone_what_is_apart_and_stays_near():
    np.testing.assert_allclose(spread([0.1, 0.5, 0.9], 0.1, 0, 1), [0.1, 0.5, 0.9])
    np.testing.assert_allclose(spread([0.5, 0.5], 0.2, 0, 1), [0.4, 0.6])
    np.testing.assert_allclose(spread([0.5] * 6, 0.5, 0, 1), np.linspace(0, 1, 6))


def test_names_at_the_ends_of_lines_do_not_overlap():
    lines = {f"rule {n}": [1.0, 0.5 + 1e-3 * n] for n in range(MOST_LINES)}
    figure, axis = make_figure(lines)
    found = boxes(figure, axis)
    assert list(found) == list(lines)
    for a, b in itertools.combinations(found.values(), 2):
        assert not a.overlaps(b)
    heights = [box.y0 for box in found.values()]
    assert heights == sorted(heights)  # as the lines end
    right = axis.get_window_extent().x1
    assert all(box.x0 > right and box.x1 <= figure.bbox.x1 for box in found.values())


def test_a_name_has_the_look_of_its_line():
    figure, (axis,) = figures.make_panels(1, xlabel="", ylabel="")
    (line,) = axis.plot([0, 1], [0, 1], color="#D55E00", linestyle=(0, (5, 2)), label="a")
    label_lines(figure, [axis])
    (sample,) = [x for x in axis.get_lines() if x.get_label() == "_sample"]
    assert sample.get_color() == line.get_color()
    assert sample._dash_pattern == line._dash_pattern


@pytest.mark.parametrize(
    ("heights", "text", "share"),
    [
        ([0.5, 12.34], "a ↑ 12.3", 1.0),
        ([0.5, -3.0], "a ↓ -3", 0.0),
        ([np.nan, np.nan], "a ↑ diverged", 1.0),
        ([0.5, 0.6, np.nan], "a ↑ diverged", 1.0),
        ([0.5, 0.25], "a", 0.25),
    ],
)
def test_what_is_off_the_scale_has_an_arrow_and_its_value(heights, text, share):
    _, axis = make_figure({"a": heights})
    (written,) = axis.texts
    assert written.get_text() == text
    assert written.get_position()[1] == pytest.approx(share, abs=0.02)


def test_names_can_stand_as_lines_do_elsewhere():
    figure, (axis,) = figures.make_panels(1, xlabel="", ylabel="")
    axis.plot([0, 0.5, 1], [0, 0.9, 0], label="high")
    axis.plot([0, 0.5, 1], [0, 0.1, 0], label="low")
    label_lines(figure, [axis], at=[0.5])
    high, low = axis.texts
    assert high.get_position()[1] - low.get_position()[1] > 0.7


def test_seven_lines_are_too_many():
    with pytest.raises(ValueError, match="7 lines in a panel; at most 6"):
        make_figure({str(n): [0, 1] for n in range(7)})


def test_panels_are_split_with_adam_in_each_part():
    hand = [name for name in figures.KNOWN_STYLES if name != "adam"]
    lines = dict.fromkeys([*hand[:3], "adam", *hand[3:], *figures.LEARNED_STYLES, "mine"], 0)
    found = split_panels({"few": {"sgd": 0}, "many": lines})
    assert found["few"] == {"sgd": 0}
    parts = [part for title, part in found.items() if title != "few"]
    assert all(len(part) <= MOST_LINES and "adam" in part for part in parts)
    others = [label for part in parts for label in part if label != "adam"]
    assert sorted(others) == sorted(set(lines) - {"adam"})
    learned = [part for title, part in found.items() if "learned" in title]
    assert set().union(*learned) == {*figures.LEARNED_STYLES, "adam"}


def test_bars_of_a_leaderboard_stand_side_by_side(tmp_path, monkeypatch):
    figure = []
    monkeypatch.setattr(leaderboard, "save", lambda found, *a, **k: figure.append(found))
    rng = np.random.default_rng(0)
    rules = ["adam", "muon_cosine", "general"]
    board = {r: leaderboard.Curve(np.arange(51), 1 + rng.random((3, 51))) for r in rules}
    leaderboard.curves({"a": board}, {r: r for r in rules}, tmp_path / "curves.svg")
    bars = [b.get_segments() for b in figure[0].axes[0].collections]
    assert len(bars) == len(rules)
    places = [segment[0][0] for found in bars for segment in found]
    assert len(set(places)) == len(places) == 4 * len(rules)
    for found, curve in zip(bars, board.values(), strict=True):
        np.testing.assert_allclose(found[-1][:, 1], np.sort(curve.losses[:, -1])[[0, -1]])
