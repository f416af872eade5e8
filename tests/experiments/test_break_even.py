"""The experiment `break_even` against its sources, and its ratios by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.lab import break_even
from learned_opt.pretrained import pretrained_card

ROOT = Path(__file__).resolve().parents[2]
DEFAULTS = break_even.DEFAULTS


def test_supposes_what_the_leaderboard_and_the_card_say():
    summary = json.loads((ROOT / "docs/leaderboard/summary.json").read_text())
    general = summary["rules"]["general_default"]
    np.testing.assert_allclose(DEFAULTS.speed_up, general["speed_up"], atol=5e-4)
    assert DEFAULTS.leaderboard_step_time == pytest.approx(general["step_time"], abs=5e-4)
    minutes = pretrained_card("general")["cost"]["minutes"]  # without compilation
    assert minutes * 60 < DEFAULTS.meta_training < 2 * minutes * 60


def test_ratios_are_formed_turn_by_turn():
    # The second turn is ten times as slow for all rules: ratios do not notice.
    seconds = {"sgd": [2.0, 20.0], "adam": [2.5, 25.0], "general": [6.0, 60.0]}
    found = break_even._ratios(seconds)
    np.testing.assert_allclose(found["gradient"], [0.5] * 3)
    np.testing.assert_allclose(found["step"], [2.4] * 3)
    np.testing.assert_allclose(found["adams"], [0.125] * 3)
    assert found["milliseconds"] == {"sgd": 2000.0, "adam": 2500.0, "general": 6000.0}


def test_the_committed_page_is_what_its_results_say():
    folder = ROOT / "docs/generalization/break_even"
    results = json.loads((folder / "results.json").read_text())
    assert break_even.report(results) == (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batches": ()}, "batches must have at least one batch size"),
        ({"run": 0.0}, "run must be finite and positive, got 0.0"),
        ({"speed_up": (2.0, 3.0, 4.0)}, "speed_up must be .value, low, high. in order"),
        ({"turns": 0}, "turns must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_timed(change, message, tmp_path):
    config = DEFAULTS.copy_and_resolve_references()
    config.update(change)
    with pytest.raises(ValueError, match=message):
        break_even.run(config, tmp_path, None)
    assert not list(tmp_path.iterdir())
