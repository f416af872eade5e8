"""From the names in a config or on a command line to tasks and rules."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from learned_opt import tasks, update_rules
from learned_opt.checkpoints import load_metadata, load_theta
from learned_opt.pretrained import load_pretrained, pretrained_names
from learned_opt.types import Task, Theta, UpdateRule

TASKS: dict[str, Callable[..., Task]] = {
    "quadratic": tasks.Quadratic,
    "image_classifier": tasks.image_classifier,
    "surface": tasks.Surface,
    "conv_classifier": tasks.conv_classifier,
    "character_model": tasks.character_model,
}

HAND_DESIGNED: dict[str, Callable[..., UpdateRule]] = {
    name: getattr(update_rules, name)
    for name in (
        "sgd",
        "momentum",
        "nesterov",
        "adagrad",
        "adadelta",
        "rmsprop",
        "adam",
        "nadam",
        "adamw",
        "muon",
    )
}

# The rules of Choi et al. have the names of those above that they are versions of.
HIERARCHY: dict[str, Callable[..., UpdateRule]] = {
    name: getattr(update_rules.hierarchy, name)
    for name in HAND_DESIGNED
    if hasattr(update_rules.hierarchy, name)
}

LEARNED: dict[str, Callable[..., UpdateRule]] = {"lstm": update_rules.lstm}


def make_task(config: Mapping[str, Any], data_dir: str | None = None) -> Task:
    """Makes the task that a config describes, for example `{'name': 'quadratic', 'num_dims': 10}`.

    Args:
      config: `name` and that task's own arguments.
      data_dir: folder of TFDS data sets, for tasks that read any.

    Raises:
      ValueError: an unknown task or argument, or a value that the task refuses.
    """
    settings = _settings(config)
    make = _find("task", settings.pop("name", None), TASKS)
    if "data_dir" in inspect.signature(make).parameters:
        settings["data_dir"] = data_dir
    missing = [
        name
        for name, parameter in inspect.signature(make).parameters.items()
        if parameter.default is parameter.empty and name not in settings
    ]
    if missing:
        raise ValueError(f"task {config['name']!r} needs {', '.join(missing)}: --{missing[0]}=…")
    return _call(make, settings)


def make_rule(config: Mapping[str, Any] | str) -> UpdateRule:
    """Makes the rule that a config describes, for example `{'name': 'lstm', 'preprocess': None}`.

    Args:
      config: `name` and that rule's own arguments, or a name alone.

    Raises:
      ValueError: an unknown rule or argument, or a value that the rule refuses.
    """
    settings = {"name": config} if isinstance(config, str) else _settings(config)
    make = _find("rule", settings.pop("name", None), HAND_DESIGNED | LEARNED)
    return _call(make, settings)


def load_rule(name: str) -> tuple[UpdateRule, Theta]:
    """Finds a rule with a θ that is ready to use.

    Args:
      name: a pretrained rule, a hand-designed one (θ is then its defaults), or the path of a
        `theta.npz` that `experiments.meta_train` wrote.

    Returns:
      The rule and its θ.

    Raises:
      ValueError: an unknown name or a file that does not say which rule it is for.
      FileNotFoundError: no such file.
    """
    if name in pretrained_names():
        return load_pretrained(name)
    if name.endswith(".npz"):
        config = load_metadata(Path(name)).get("rule")
        if config is None:
            raise ValueError(f"{name} does not say which rule it is for")
        rule = make_rule(config)
        return rule, load_theta(name, like=jax.eval_shape(rule.init, jax.random.key(0)))
    if name not in HAND_DESIGNED:
        known = [*HAND_DESIGNED, *pretrained_names()]
        raise ValueError(
            f"unknown rule {name!r}; known: {', '.join(known)}, or the path of a theta.npz"
        )
    rule = HAND_DESIGNED[name]()
    return rule, rule.init(jax.random.key(0))


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in dict(config).items()}


def _find(kind: str, name: Any, known: Mapping[str, Callable]) -> Callable:
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(known)}")
    return known[name]


def _call(make: Callable, settings: Mapping[str, Any]) -> Any:
    parameters = inspect.signature(make).parameters
    unknown = [name for name in settings if name not in parameters]
    if unknown:
        raise ValueError(
            f"{make.__name__} has no argument {', '.join(unknown)}; it has {', '.join(parameters)}"
        )
    return make(**settings)
