"""The leaderboard as its users start it."""

import json

import pytest
from ml_collections import ConfigDict

from experiments import leaderboard
from experiments.common.board_rules import RIVALS, make_entry
from experiments.common.launch import check_fields
from experiments.configs.leaderboard import leaderboard as board_config

DIGITS = {
    "task": {
        "name": "image_classifier",
        "dataset": "digits",
        "hidden_sizes": (4,),
        "batch_size": 8,
    },
    "num_steps": 4,
}


def make_config(**settings):
    defaults = {
        "workloads": {"digits": DIGITS},
        "rules": {
            "adam": {"rule": "adam", "rates": (1e-3, 1e-2, 1e-1), "adam_factor": 2},
            "adamw_cosine": {
                "rule": "adamw",
                "schedule": "cosine",
                "weight_decay": (1e-3, 1e-1),
                "rates": (1e-2, 1e-1),
            },
            "sf": {"rule": "schedule_free_adamw", "rates": (1e-2,)},
        },
        "num_seeds": 2,
        "search_seeds": 1,
        "points": 2,
        "probes": 2,
        "max_moves": 1,
    }
    return ConfigDict(defaults | settings)


def files(folder):
    found = {}
    for path in sorted([*folder.glob("cells/*/*"), *folder.glob("outcomes/*/*")]):
        found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def test_a_board_that_was_cut_short_becomes_the_same(tmp_path):
    leaderboard.main(make_config(), tmp_path / "whole", None)
    whole = files(tmp_path / "whole")
    assert len(whole) == 6
    cells = [json.loads(x) for x in whole["cells/digits/adam.jsonl"].splitlines()[1:]]
    assert {len(cell["train"]) for cell in cells if cell["seed"] == 0} == {5}  # twice as long
    outcome = json.loads(whole["outcomes/digits/adamw_cosine.json"])
    assert outcome["weight_decay"] in (1e-3, 1e-1) and outcome["rate"] in outcome["window"]
    assert outcome["state_bytes"] > 2 * outcome["parameter_bytes"]
    # A kill in the middle of a line, and parts of the board one after another.
    part = tmp_path / "part"
    (part / "cells/digits").mkdir(parents=True)
    (part / "cells/digits/adam.jsonl").write_bytes(whole["cells/digits/adam.jsonl"][:-30])
    leaderboard.main(make_config(), part, None, rules=["sf"])
    leaderboard.main(make_config(), part, None)
    assert files(part) == whole


def test_what_is_not_here_is_left_out_unless_it_is_asked_for(tmp_path, capsys):
    rules = {
        "sf": {"rule": "schedule_free_adamw", "rates": (1e-2,)},
        "celo2_cosine": {"rule": "celo2", "rates": (1e-2,)},
        "to_come": {"rule": "to_come", "rates": (1e-2,)},
    }
    leaderboard.main(make_config(rules=rules, timed=("digits",)), tmp_path, None)
    printed = capsys.readouterr().out
    assert "celo2_cosine is left out: celo2's weights are not given" in printed
    assert "to_come is left out: rule 'to_come'" in printed
    timing = json.loads(next(tmp_path.glob("timing/digits_*.json")).read_text())
    assert list(timing["milliseconds"]) == ["sf"]
    with pytest.raises(ValueError, match="--config.celo2_weights=PATH"):
        leaderboard.main(make_config(rules=rules), tmp_path, None, rules=["celo2_cosine"])


@pytest.mark.parametrize(
    ("settings", "names", "message"),
    [
        ({"points": 3}, {}, "points .3. must divide num_steps .4."),
        ({"search_seeds": 3}, {}, "search_seeds .3. must be at most num_seeds .2."),
        ({}, {"rules": ["adom"]}, "unknown rule 'adom'; known: adam, adamw_cosine"),
        ({}, {"workloads": ["x"]}, "unknown workload 'x'; known: digits"),
        ({"rules": {"a": {"rule": "adam"}}}, {}, "must have 'rule' and 'rates'"),
        ({"rules": {"a": {"rule": "adam", "rates": (1.0,), "schedule": "step"}}}, {}, "'cosine'"),
        (
            {"workloads": {"w": {"task": {"name": "language_model"}, "num_steps": 4}}},
            {},
            "add --text_file=FILE",
        ),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, settings, names, message):
    with pytest.raises(ValueError, match=message):
        leaderboard.main(make_config(**settings), tmp_path, None, **names)


def test_the_config():
    config = check_fields(board_config.get_config(), leaderboard.DEFAULTS)
    for doc in ("python -m experiments.leaderboard", "Run time", "Expected"):
        assert doc in board_config.__doc__
    lengths = {name: len(spec["rates"]) for name, spec in config.rules.items()}
    assert set(lengths.values()) == {1, 7}
    for name, spec in config.rules.to_dict().items():
        if spec["rule"] in (*RIVALS, "lstm_mnist") and not spec.get("guard"):
            assert make_entry(name, spec, {}).rates == spec["rates"]
    for workload in config.workloads.values():
        assert workload.num_steps % config.points == 0
