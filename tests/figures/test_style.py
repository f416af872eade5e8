"""A rule looks the same wherever it is drawn, under any of its names."""

import numpy as np
import pytest

from experiments.common.names import _WRITTEN, display_name, loss_unit, with_unit
from learned_opt.figures import curves, explorer, leaderboard, progress, responses, studies, style

RULES = ["Adam", "Muon, cosine", "Nesterov, cosine", "Celo2, cosine", "general", "lstm_mnist"]
LOSSES = np.exp(-np.arange(51) / 20) * (1 + np.random.default_rng(0).random((3, 51)))
STEPS = np.arange(51)


def draw_loss_curves(path):
    curves.loss_curves({"a": dict.fromkeys(RULES, LOSSES)}, path)


def draw_tuning(path):
    curves.tuning_curves(dict.fromkeys(RULES, (STEPS + 1, LOSSES[0])), path)


def draw_widths(path):
    curves.width_sweep({"a": dict.fromkeys(RULES, (STEPS, LOSSES[0], LOSSES[0] / 9))}, path)


def draw_inclusions(path):
    curves.inclusions({}, dict.fromkeys(RULES, LOSSES[0]), path)


def draw_board_curves(path):
    names = {rule: rule for rule in RULES}
    board = dict.fromkeys(RULES, leaderboard.Curve(STEPS, LOSSES))
    leaderboard.curves({"a": board}, names, path)


def draw_profiles(path):
    shares = dict.fromkeys(RULES, LOSSES[0])
    leaderboard.profiles({"a": (STEPS + 1, shares)}, {r: r for r in RULES}, path)


def draw_progress(path):
    runs = progress.Progress(LOSSES, 0.1, {"loss": (STEPS, LOSSES[0], LOSSES[0] / 9)})
    progress.progress_curves(dict.fromkeys(RULES, runs), path, title="")


def draw_responses(path):
    answers = responses.Answers(LOSSES[:1], 1.0)
    responses.answers(dict.fromkeys(RULES, answers), {"step": LOSSES[0]}, path, title="")


def draw_best_of_k(path):
    parts = (STEPS + 1, LOSSES[0], LOSSES[0] / 2, LOSSES[0] * 2)
    studies.best_of_k({"a": dict.fromkeys(RULES, parts)}, path)


def draw_winners(path):
    studies.winners({"a": dict.fromkeys(RULES, (STEPS, LOSSES))}, path)


def draw_study_profiles(path):
    studies.profiles(STEPS + 1, dict.fromkeys(RULES, LOSSES[0]), path, xlabel="")


def draw_rankings(path):
    found = [studies.Interval(2.0, 1.0, 3.0)] * 2
    studies.rankings({"a": dict.fromkeys(RULES, found)}, path, levels=["x", "y"], ylabel="")


DRAWN = {
    draw_loss_curves: curves, draw_tuning: curves, draw_widths: curves, draw_inclusions: curves,
    draw_board_curves: leaderboard, draw_profiles: leaderboard, draw_progress: progress,
    draw_responses: responses, draw_best_of_k: studies, draw_winners: studies,
    draw_study_profiles: studies, draw_rankings: studies,
}  # fmt: skip


@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
def test_all_figures_have_the_colours_of_the_table(draw, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(DRAWN[draw], "save", lambda figure, *a, **k: figures.append(figure))
    draw(tmp_path / "figure.png")
    expected = style.styles_of(RULES)
    found = {}
    for axis in figures[0].axes:
        for artist in (*axis.get_lines(), *axis.containers):
            label = str(artist.get_label()).partition(":")[0]
            if label in RULES:
                line = getattr(artist, "lines", [artist])[0]
                found.setdefault(label, set()).add(line.get_color())
    assert found == {rule: {expected[rule][0]} for rule in RULES}


def test_the_explorer_has_the_colours_and_dashes_of_the_table():
    names = ["sgd", "adam", "muon", "general", "lstm_mnist"]
    found = explorer.rule_styles({name: display_name(name) for name in names})
    for name in names:
        color, dash = style.STYLES[name]
        assert found[name]["color"] == color
        assert found[name]["dash"] == ([] if dash == "solid" else list(dash[1]))


def test_no_two_rules_look_the_same():
    assert len({(c, str(d)) for c, d in style.STYLES.values()}) == len(style.STYLES)
    assert {c for c, _ in style.STYLES.values()} <= {*style.COLORS, "#7F7F7F"}


@pytest.mark.parametrize("name", _WRITTEN)
def test_a_rule_has_one_look_under_all_its_names(name):
    assert style.base(name) == style.base(display_name(name)) != ""
    assert style.base(name) in style.STYLES
    assert (
        style.styles_of([name])[name]
        == style.styles_of(["x", display_name(name)])[display_name(name)]
    )


@pytest.mark.parametrize(
    ("label", "rule"),
    [
        ("adamw_cosine", "adamw"),
        ("nag_cosine", "nesterov"),
        ("RMSProp (Choi et al.)", "rmsprop"),
        ("general, default rate", "general_default"),
        ("general (matrix)", "general"),
        ("general_wide", "general_wide"),  # a rule of one's own
        ("Adam, η = 1", "adam"),
    ],
)
def test_what_a_label_is_about(label, rule):
    assert style.base(label) == rule


def test_a_second_label_of_a_rule_does_not_look_like_another_rule():
    labels = ["momentum (tuned for 100)", "momentum (tuned for 200)", "muon"]
    found = style.styles_of(labels)
    assert len(set(found.values())) == 3
    assert found[labels[1]][0] == found[labels[0]][0]
    assert found["muon"] == style.STYLES["muon"]


def test_losses_have_units():
    assert with_unit("loss", "image_classifier") == "loss [nats]"
    assert with_unit("loss", "quadratic") == "loss" and loss_unit("mine") == ""


def test_few_colours_keep_those_of_rules(tmp_path):
    from PIL import Image

    figure, (axis,) = style.make_panels(1, xlabel="", ylabel="")
    for n, color in enumerate({c for c, _ in style.STYLES.values()}):
        axis.axhspan(n, n + 1, color=color, linewidth=0)
    style.save(figure, tmp_path / "few.png", few_colors=True)
    with Image.open(tmp_path / "few.png") as image:
        kept = {tuple(x) for x in np.asarray(image.convert("RGB")).reshape(-1, 3)}
    for color, _ in style.STYLES.values():
        assert tuple(int(color[n : n + 2], 16) for n in (1, 3, 5)) in kept
