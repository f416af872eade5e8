"""From the names in a config or on a command line to tasks and rules."""

import inspect
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import optax

from experiments.common.corpus import documentation_model
from experiments.common.lbfgs import lbfgs
from experiments.common.lookup import find, find_file, run_theirs
from learned_opt import tasks, update_rules
from learned_opt.meta_training import NRES, PES, FullES, Imitation, TruncatedBPTT, TruncatedES
from learned_opt.pretrained import load_pretrained, load_rule_file, pretrained_names
from learned_opt.tasks.augmentations import AUGMENTATIONS
from learned_opt.theta_files import load_metadata, load_theta
from learned_opt.types import Estimator, Task, Theta, UpdateRule

PLACES = ("text_file", "content_dir", "style_dir")  # arguments that say where a task's data lie

TASKS: dict[str, Callable[..., Task]] = {
    "quadratic": tasks.Quadratic,
    "image_classifier": tasks.image_classifier,
    "surface": tasks.Surface,
    "language_model": tasks.language_model,
    "regression": tasks.regression,
    "autoencoder": tasks.autoencoder,
    "style_transfer": tasks.style_transfer,
    "documentation": documentation_model,
    "perceptron_family": tasks.perceptron_family,
    "rescaled": lambda task, decades=1.0, per="tensor", signs=False, data_dir=None: tasks.Rescaled(
        make_task(task, data_dir), decades, per, signs
    ),
    "with_penalty": lambda task, l2=0.0, l1=0.0, data_dir=None: tasks.WithPenalty(
        make_task(task, data_dir), l2, l1
    ),
    "with_weight_noise": lambda task, std=0.01, data_dir=None: tasks.WithWeightNoise(
        make_task(task, data_dir), std
    ),
    "with_gradient_noise": lambda task, std=1.0, decades=2.0, data_dir=None: (
        tasks.WithGradientNoise(make_task(task, data_dir), std, decades)
    ),
    "with_batch_sizes": lambda task, halvings=3, data_dir=None: tasks.WithBatchSizes(
        make_task(task, data_dir), halvings
    ),
    "augmented": lambda task, transforms=(), data_dir=None: tasks.Augmented(
        make_task(task, data_dir), tuple(make_transform(t) for t in transforms)
    ),
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
} | {"lbfgs": lbfgs}

# The rules of Choi et al. have the names of those above that they are versions of.
HIERARCHY: dict[str, Callable[..., UpdateRule]] = {
    name: getattr(update_rules.hierarchy, name)
    for name in HAND_DESIGNED
    if hasattr(update_rules.hierarchy, name)
}


def _by_label(rules: Mapping[str, Any], label_fn: str = "") -> UpdateRule:
    parts = {label: make_rule(rule) for label, rule in rules.items()}
    if not label_fn:
        return update_rules.by_label(parts)
    return update_rules.by_label(parts, find("label function", label_fn, {}))


LEARNED: dict[str, Callable[..., UpdateRule]] = {
    "by_label": _by_label,
    "celo2": update_rules.celo2,
    "learned_muon": update_rules.learned_muon,
    "lstm": update_rules.lstm,
    "rnnprop": update_rules.rnnprop,
}

ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    "imitation": Imitation,
    "truncated_bptt": TruncatedBPTT,
    "full_es": FullES,
    "truncated_es": TruncatedES,
    "pes": PES,
    "nres": NRES,
}


def make_task(config: Mapping[str, Any], data_dir: str | None = None) -> Task:
    """Makes the task that a config describes, for example `{'name': 'quadratic', 'num_dims': 10}`.

    Args:
      config: `name` and that task's own arguments. The name 'module:attribute' finds the user's
        own: a class, a function that makes a task, or a task.
      data_dir: folder of TFDS data sets, for tasks that read any.

    Raises:
      ValueError: an unknown task or argument, a value that the task refuses, or no task at all.
    """
    settings = _settings(config)
    name: Any = settings.pop("name", None)
    make = find("task", name, TASKS)
    if _is_task(make):
        return _ready("task", name, make, settings)
    for place in PLACES:
        if settings.get(place) is not None:
            settings[place] = find_file(settings[place])
    task = _call("task", name, make, settings, {"data_dir": data_dir})
    if not _is_task(task):
        missing = [part for part in _TASK_PARTS if part not in dir(task)]
        raise ValueError(
            f"task {name!r} makes a {type(task).__name__}, which is no task: it has no "
            f"{', '.join(missing)}"
        )
    return task


def make_transform(config: Mapping[str, Any] | str) -> Callable[..., Any]:
    """Makes the augmentation that a config describes, for example `{'name': 'mixup'}`.

    Raises:
      ValueError: an unknown name or argument, or a value that the augmentation refuses.
    """
    settings = {"name": config} if isinstance(config, str) else _settings(config)
    name: Any = settings.pop("name", None)
    return _call("transform", name, find("transform", name, AUGMENTATIONS), settings)


def make_rule(config: Mapping[str, Any] | str) -> UpdateRule:
    """Makes the rule that a config describes, for example `{'name': 'lstm', 'preprocess': None}`.

    Args:
      config: `name` and that rule's own arguments, or a name alone. The name 'module:attribute'
        finds the user's own: a function that makes an `UpdateRule`, or an `UpdateRule`.

    Raises:
      ValueError: an unknown rule or argument, a value that the rule refuses, or no rule at all.
    """
    settings = {"name": config} if isinstance(config, str) else _settings(config)
    name: Any = settings.pop("name", None)
    make = find("rule", name, HAND_DESIGNED | LEARNED)
    if isinstance(make, UpdateRule):
        return _ready("rule", name, make, settings)
    rule = _call("rule", name, make, settings)
    if not isinstance(rule, UpdateRule):
        raise ValueError(f"rule {name!r} makes a {type(rule).__name__}, which is no UpdateRule")
    return rule


def make_estimator(config: Mapping[str, Any], offered: Mapping[str, Any]) -> Estimator:
    """Makes the estimator that a config describes, for example `{'name': 'truncated_bptt'}`.

    Args:
      config: `name` and that estimator's own arguments. The name 'module:attribute' finds the
        user's own: a class, or a function that makes an estimator.
      offered: arguments that it is given where it has them and the config does not: `task`,
        `rule`, `mesh`, `num_tasks`, …

    Raises:
      ValueError: an unknown estimator or argument, or a value that the estimator refuses.
    """
    settings = _settings(config)
    name: Any = settings.pop("name", None)
    make = find("estimator", name, ESTIMATORS)
    offered = {key: value for key, value in offered.items() if key not in settings}
    return _call("estimator", name, make, settings, offered)


def load_rule(name: str) -> tuple[UpdateRule, Theta]:
    """Finds a rule with a θ that is ready to use.

    Args:
      name: a pretrained rule, a hand-designed one (θ is then its defaults), the path of a
        `theta.npz` that `experiments.meta_train` wrote or of the published weights of Celo2, or
        'module:attribute' for the user's own (θ is then what its `init` returns). After a
        pretrained rule or a path, `@FACTOR` multiplies its steps by a factor.

    Returns:
      The rule and its θ.

    Raises:
      ValueError: an unknown name or a file that does not say which rule it is for.
      FileNotFoundError: no such file.
    """
    base, at, factor = name.rpartition("@")
    if at and (is_pretrained(base) or base.endswith(".npz")):
        rule, theta = load_rule(base)
        return _scaled(rule, name, factor), theta
    if is_pretrained(name):
        return load_pretrained(name)
    if name.endswith(".npz"):
        path = find_file(name)
        config = load_metadata(path).get("rule")
        if not isinstance(config, dict) or not _is_own(config):
            return load_rule_file(path)
        rule = make_rule(config)
        return rule, load_theta(path, like=jax.eval_shape(rule.init, jax.random.key(0)))
    if name not in HAND_DESIGNED and ":" not in name:
        known = [*HAND_DESIGNED, *pretrained_names()]
        raise ValueError(
            f"unknown rule {name!r}; known: {', '.join(known)}, the path of a theta.npz, or "
            "'module:attribute' of your own"
        )
    rule = make_rule(name)
    return rule, rule.init(jax.random.key(0))


def _is_own(config: Mapping[str, Any] | str) -> bool:
    """Whether a rule, a part of it or its labels are the user's own, 'module:attribute'."""
    if isinstance(config, str):
        return ":" in config
    parts = config.get("rules", {}).values()
    return any(":" in str(config.get(key)) for key in ("name", "label_fn")) or any(
        map(_is_own, parts)
    )


def is_pretrained(name: str) -> bool:
    """Whether a name is that of a pretrained rule, with a factor on its steps or without."""
    return name.partition("@")[0] in pretrained_names()


def _scaled(rule: UpdateRule, name: str, text: str) -> UpdateRule:
    """A rule with its steps multiplied by the factor that its name ends with."""
    try:
        factor = float(text)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise ValueError(f"rule {name!r}: the factor after @ must be a positive number")

    def scaled(transform: Callable[..., optax.GradientTransformation]) -> Any:
        return lambda theta, **knobs: optax.chain(transform(theta, **knobs), optax.scale(factor))

    fast = rule.coordinates_last
    return rule._replace(
        transform=scaled(rule.transform),
        coordinatewise=rule.coordinatewise and not rule.parts,
        coordinates_last=scaled(fast) if fast else None,
        parts=(),
        label_fn=None,
    )


_TASK_PARTS = ("sample", "init", "loss", "evaluate")


def _is_task(value: Any) -> bool:
    return isinstance(value, Task) and not inspect.isclass(value)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in dict(config).items()}


def _ready(kind: str, name: str, value: Any, settings: Mapping[str, Any]) -> Any:
    if settings:
        raise ValueError(
            f"{kind} {name!r} is made already: it takes no {', '.join(settings)}; name a function "
            "that makes one instead"
        )
    return value


def _call(
    kind: str,
    name: str,
    make: Any,
    settings: Mapping[str, Any],
    offered: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """Calls what makes a task or a rule with its settings, and with what it takes of `offered`."""
    if not callable(make):
        raise ValueError(f"{kind} {name!r} is a {type(make).__name__}, which makes no {kind}")
    parameters = inspect.signature(make).parameters
    settings = dict(settings) | {n: value for n, value in offered.items() if n in parameters}
    starred = [n for n, p in parameters.items() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    open_ended = any(parameters[n].kind is inspect.Parameter.VAR_KEYWORD for n in starred)
    unknown = [n for n in settings if n not in parameters]
    if unknown and not open_ended:
        raise ValueError(
            f"{make.__name__} has no argument {', '.join(unknown)}; it has {', '.join(parameters)}"
        )
    missing = [
        n
        for n, p in parameters.items()
        if p.default is p.empty
        and n not in settings
        and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if missing:
        flag = missing[0] if missing[0] == "text_file" else f"config.{kind}.{missing[0]}"
        raise ValueError(f"{kind} {name!r} needs {', '.join(missing)}: --{flag}=…")
    if ":" not in name:
        return make(**settings)
    return run_theirs(kind, name, lambda: make(**settings))
