"""Which studies a config asks for: rules, and the spaces that they are searched in."""

from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from experiments.common.build import HIERARCHY, is_pretrained, load_rule
from experiments.common.lookup import find_file
from learned_opt.pretrained import pretrained_names
from learned_opt.studies.spaces import SearchSpace, load_space
from learned_opt.types import Theta, UpdateRule
from learned_opt.update_rules import with_knobs_as_theta


class Study(NamedTuple):
    """One rule's study on one level.

    Attributes:
      rule_name: the rule's.
      rule: the rule.
      level: the level whose space it is.
      space: where it is searched.
      theta: θ of a rule without knobs, else None.
    """

    rule_name: str
    rule: UpdateRule
    level: str
    space: SearchSpace
    theta: Theta | None

    @property
    def folder(self) -> Path:
        """Where it is kept, below the work directory's `studies` and `winners`."""
        return Path(self.level) / self.rule_name


def find_studies(config: ConfigDict) -> dict[str, list[Study]]:
    """The studies of each level. A rule without a file there has that of the level before."""
    found: dict[str, list[Study]] = {level: [] for level in config.levels}
    for name in config.rules:
        if is_pretrained(name):
            found[config.levels[-1]].append(_learned(name, config))
            continue
        if name not in HIERARCHY:
            known = ", ".join([*HIERARCHY, *pretrained_names()])
            raise ValueError(f"unknown rule {name!r}; known: {known}")
        before = None
        for level in config.levels:
            path = find_file(config.spaces) / level / f"{name}.json"
            if path.exists():
                before = with_space(name, level, path)
            elif before is None:
                raise FileNotFoundError(
                    f"there is no search space {path}; set spaces and levels to folders with one"
                )
            found[level].append(before)
    return found


def _learned(name: str, config: ConfigDict) -> Study:
    """A learned rule as it is, or with its knobs searched where there is a space of them."""
    rule, theta = load_rule(name)
    level = config.levels[-1]
    path = find_file(config.spaces) / level / f"{name}.json"
    if rule.knobs and path.exists():
        return with_space(name, level, path)
    return Study(name, rule, "learned", SearchSpace(name, {}), theta)


def with_space(name: str, level: str, path: Path) -> Study:
    """The study of a rule in the space of a file.

    Raises:
      ValueError: it is a space of another rule, or does not fit the rule.
    """
    space = load_space(path)
    rule = with_knobs_as_theta(*load_rule(name)) if is_pretrained(name) else HIERARCHY[name]()
    if space.rule != name:
        raise ValueError(f"{path} is a space of {space.rule}")
    try:
        space.check(rule.init(jax.random.key(0)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Study(name, rule, level, space, None)
