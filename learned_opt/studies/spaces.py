"""Search spaces of hyperparameters, as data, and quasi-random points in them.

A space is a small JSON file, one for each workload and rule::

    {
      "rule": "adam",
      "parameters": {
        "eps": {"low": 1e-10, "high": 1e10, "scale": "log"},
        "learning_rate/eps": {"low": 1e-2, "high": 1e8, "scale": "log"},
        "one_minus_b1": {"low": 1e-3, "high": 1, "scale": "log"}
      },
      "fixed": {"one_minus_b2": 0.001, "decay_factor": 1, "decay_steps/budget": 1}
    }

`a/b` is the ratio of two hyperparameters, for those that matter together: the point's `a` is the
ratio times its `b`. `…/budget` is a share of a run's updates.

Reference: Choi et al., *On empirical comparisons of optimizers for deep learning*, 2019, appendix.
"""

import dataclasses
import hashlib
import json
import math
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_AT_MOST_ONE = ("one_minus_", "decay_factor", "decay_steps/budget")
_MAX_SEED = 2**32 - 1  # JAX's keys of larger ones are those of smaller ones
_EDGE = 0.05  # of a range, on its scale: what counts as lying on its boundary


@dataclasses.dataclass(frozen=True)
class Range:
    """Values from `low` to `high`, spread evenly on a linear or a log scale.

    Raises:
      ValueError: the ends are not increasing finite numbers, or not positive on a log scale, or an
        unknown scale.
    """

    low: float
    high: float
    scale: str = "log"

    def __post_init__(self):
        """Checks the ends."""
        if self.scale not in ("log", "linear"):
            raise ValueError(f"unknown scale {self.scale!r}: expected 'log' or 'linear'")
        for end in (self.low, self.high):
            number = isinstance(end, int | float) and not isinstance(end, bool)
            if not (number and math.isfinite(end)):
                raise ValueError(f"low and high must be finite numbers, got {end!r}")
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"a log scale needs low above 0, got {self.low}")

    def at(self, share: np.ndarray) -> np.ndarray:
        """The values at shares from 0 (`low`) to 1 (`high`) of the range."""
        if self.scale == "log":
            return self.low * (self.high / self.low) ** share
        return self.low + (self.high - self.low) * share

    def share(self, value: float) -> float:
        """The share of the range at which a value lies; the inverse of `at`."""
        if self.scale == "log":
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """The ranges of a rule's hyperparameters that are searched, and the values of the rest.

    Make one with `load_space` or `SearchSpace.from_dict`, which check it.

    Attributes:
      rule: the rule's name.
      parameters: name or ratio -> `Range`.
      fixed: name or ratio -> value.
    """

    rule: str
    parameters: Mapping[str, Range]
    fixed: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SearchSpace":
        """Makes a space of what a space file holds.

        Raises:
          ValueError: a field or a number that is missing, unknown or out of range; a hyperparameter
            that is there twice, or a ratio to one that is not there.
        """
        unknown = sorted(set(data) - {"rule", "parameters", "fixed"})
        missing = sorted({"rule", "parameters"} - set(data))
        if unknown or missing:
            raise ValueError(
                f"a space has the fields rule, parameters and fixed; unknown: {unknown}, "
                f"missing: {missing}"
            )
        parameters = {}
        for name, ends in data["parameters"].items():
            if not isinstance(ends, Mapping) or not {"low", "high"} <= set(ends) <= {
                "low",
                "high",
                "scale",
            }:
                raise ValueError(f"{name} must have low, high and scale, got {ends!r}")
            try:
                parameters[name] = Range(**ends)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        fixed = dict(data.get("fixed", {}))
        for name, value in fixed.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} must be fixed at a finite number, got {value!r}")
        names = [name.partition("/")[0] for name in (*parameters, *fixed)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} is there twice")
        plain = {name for name in (*parameters, *fixed) if "/" not in name} | {"budget"}
        for name in (*parameters, *fixed):
            base = name.partition("/")[2]
            if "/" in name and base not in plain:
                raise ValueError(f"{name} needs {base}, which is not there as it is")
        return cls(str(data["rule"]), parameters, fixed)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` takes."""
        return {
            "rule": self.rule,
            "parameters": {n: dataclasses.asdict(r) for n, r in self.parameters.items()},
            "fixed": dict(self.fixed),
        }

    @property
    def identity(self) -> str:
        """A name for this very space: equal spaces have equal ones, however they are written."""
        data = self.to_dict()
        for entry in data["parameters"].values():
            entry["low"], entry["high"] = float(entry["low"]), float(entry["high"])
        data["fixed"] = {name: float(value) for name, value in data["fixed"].items()}
        text = json.dumps(data, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check(self, hyperparameters: Mapping[str, Any]) -> None:
        """Checks that this space gives exactly the hyperparameters of a rule.

        Args:
          hyperparameters: the rule's θ.

        Raises:
          ValueError: one that is unknown or missing.
        """
        names = {name.partition("/")[0] for name in (*self.parameters, *self.fixed)}
        unknown, missing = (
            sorted(names - set(hyperparameters)),
            sorted(set(hyperparameters) - names),
        )
        if unknown or missing:
            raise ValueError(
                f"the space is not one of {self.rule}, whose hyperparameters are "
                f"{', '.join(hyperparameters)}: unknown {unknown}, missing {missing}"
            )

    def points(self, start: int, stop: int, *, seed: int) -> list[dict[str, float]]:
        """Points `start` … `stop − 1` of a scrambled Halton sequence in the ranges.

        Point n depends on the space, the seed and n alone, so a search can be extended, or shared
        between machines, without repeating a point.

        Args:
          start: the first point.
          stop: the one after the last.
          seed: of the scrambling.

        Returns:
          For each point, the values by the names in `parameters`.

        Raises:
          ValueError: a seed out of range.
        """
        check_seed(seed)
        from scipy.stats import qmc

        if not self.parameters:
            return [{} for _ in range(start, stop)]
        sequence = qmc.Halton(len(self.parameters), scramble=True, rng=seed)
        sequence.fast_forward(start)
        shares = sequence.random(stop - start)
        columns = [r.at(shares[:, n]) for n, r in enumerate(self.parameters.values())]
        return [
            {name: float(c[n]) for name, c in zip(self.parameters, columns, strict=True)}
            for n in range(stop - start)
        ]

    def theta(self, point: Mapping[str, float], *, budget: int) -> dict[str, float]:
        """The hyperparameters at a point: ratios are multiplied out, and the fixed ones added.

        Args:
          point: from `points`.
          budget: updates in a run.
        """
        values = {**self.fixed, **point}
        plain = {name: value for name, value in values.items() if "/" not in name}
        for name, value in values.items():
            if "/" in name:
                target, _, base = name.partition("/")
                plain[target] = value * (budget if base == "budget" else values[base])
        return plain

    def on_edge(self, point: Mapping[str, float]) -> dict[str, str]:
        """The parameters of a point that lie within 5 % of their range's ends.

        An end beyond which no value has a meaning, such as 1 for 1 − β, is not an edge.

        Returns:
          Name -> 'low' or 'high'. Where the best point of a study has any, the space should be
          moved or widened there.
        """
        found = {}
        for name, r in self.parameters.items():
            share, (lowest, highest) = r.share(point[name]), _limits(name, r)
            if share <= _EDGE and r.low > lowest:
                found[name] = "low"
            elif share >= 1 - _EDGE and r.high < highest:
                found[name] = "high"
        return found


def _limits(name: str, r: Range) -> tuple[float, float]:
    """The least and the largest value that a range of this parameter can be widened to."""
    lowest = 0.0 if r.low >= 0 else -math.inf
    return lowest, 1.0 if name.startswith(_AT_MOST_ONE) else math.inf


def around_best(
    space: SearchSpace,
    points: Sequence[Mapping[str, float]],
    scores: Sequence[float],
    *,
    share: float = 0.2,
    margin: float = 0.1,
) -> SearchSpace:
    """The final space that an initial study suggests: the box of its best trials, and a margin.

    Where the best trials lie on the edge of a range, the new one reaches beyond it, but not above
    1 for those that cannot be larger: 1 − β, and the two shares of the decay.

    Args:
      space: the initial space.
      points: its trials, from `SearchSpace.points`.
      scores: their scores, lower is better; not finite where a trial diverged.
      share: of the trials, the best ones that count; at least five of them do.
      margin: of the old range, on its scale, to add at both ends.

    Returns:
      A space with the same parameters.

    Raises:
      ValueError: fewer than five trials that did not diverge.
    """
    values = np.asarray(scores, float)
    count = max(5, math.ceil(share * len(values)))
    best = [n for n in np.argsort(values, kind="stable")[:count] if np.isfinite(values[n])]
    if len(best) < 5:
        raise ValueError(
            f"{len(best)} trials that did not diverge are too few to narrow the space of "
            f"{space.rule}: it takes five"
        )
    ranges = {}
    for name, r in space.parameters.items():
        shares = [r.share(points[n][name]) for n in best]
        low, high = np.clip(
            r.at(np.array([min(shares) - margin, max(shares) + margin])), *_limits(name, r)
        )
        ranges[name] = Range(_rounded(low), _rounded(high), r.scale)
    return SearchSpace(space.rule, ranges, space.fixed)


def check_seed(seed: int, name: str = "seed") -> None:
    """Raises `ValueError` for what is not a whole number from 0 to 2³² − 1."""
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number <= _MAX_SEED:
        raise ValueError(f"{name} must be a whole number from 0 to {_MAX_SEED}, got {seed!r}")


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def load_space(path: str | os.PathLike) -> SearchSpace:
    """Reads a space file.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is no JSON, or no space; the message names the file.
    """
    try:
        return SearchSpace.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
