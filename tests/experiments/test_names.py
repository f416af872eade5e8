from pathlib import Path

import jax
import pytest

from experiments.common.build import HAND_DESIGNED, HIERARCHY
from experiments.common.names import display_name

ROOT = Path(__file__).parents[2]


def test_every_hand_designed_rule_has_a_written_name():
    for name in HAND_DESIGNED:
        assert display_name(name).lower().replace("-", "") == name != display_name(name)
    names = [display_name(name) for name in HAND_DESIGNED]
    names += [display_name(name, hierarchy=True) for name in ("rmsprop", "adam", "nadam")]
    assert len(set(names)) == len(names)
    assert display_name("lstm_mnist") == "lstm_mnist"
    assert display_name("sgd (tuned for 2)") == "SGD (tuned for 2)"


@pytest.mark.parametrize("name", HIERARCHY)
def test_messages_tell_the_two_rules_of_a_name_apart(name):
    messages = []
    for rules in (HAND_DESIGNED, HIERARCHY):
        rule = rules[name]()
        with pytest.raises(ValueError, match="θ is not one of") as caught:
            rule.transform(rule.init(jax.random.key(0)) | {"learning_rat": 1.0})
        messages.append(str(caught.value).partition(":")[0])
    assert messages == [f"θ is not one of {name}", f"θ is not one of hierarchy.{name}"]


def test_one_name_for_momentum():
    files = [
        path
        for folder in ("learned_opt", "experiments", "scripts")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in (".py", ".json", "")
    ]
    assert len(files) > 80
    for path in files:
        text = path.read_text(encoding="utf-8").lower()
        assert "heavy ball" not in text and "heavy-ball" not in text, path
