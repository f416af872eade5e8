"""Checks that every update rule makes on what it is given.

They look at tree structures, shapes and dtypes only, so they run while tracing and cost nothing in
a compiled step.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt.types import Params, Theta


def check_params(params: Params, *, complex_params: bool = False) -> None:
    """Checks that every parameter is a floating-point array.

    Args:
      params: the parameters given to a transformation's `init`.
      complex_params: whether they may be complex as well.

    Raises:
      TypeError: where a parameter is not floating point; the message names it.
    """
    for path, leaf in jax.tree.leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.inexact if complex_params else jnp.floating):
            kinds = "real or complex" if complex_params else "real"
            raise TypeError(
                f"parameters must be {kinds} floating point, but "
                f"params{jax.tree_util.keystr(path)} has dtype {dtype}; leave it out with "
                "optax.masked or optax.multi_transform"
            )


def check_same_tree(updates: Params, reference: Any, *, trailing_axes: int = 0) -> None:
    """Checks that gradients have the structure and the shapes of the parameters.

    Args:
      updates: the gradients given to a transformation's `update`.
      reference: the parameters, or a part of the state shaped like them.
      trailing_axes: how many trailing axes of `reference` (features of a state) are left out of
        the comparison of shapes.

    Raises:
      ValueError: where the trees differ; the message names the first difference.
    """
    got = {jax.tree_util.keystr(p): np.shape(x) for p, x in jax.tree.leaves_with_path(updates)}
    want = {
        jax.tree_util.keystr(p): np.shape(x)[: np.ndim(x) - trailing_axes]
        for p, x in jax.tree.leaves_with_path(reference)
    }
    if got != want:
        raise ValueError(f"the gradients differ from the parameters: {_difference(got, want)}")
    tree: Any = jax.tree.structure(updates)
    reference_tree: Any = jax.tree.structure(reference)
    if tree != reference_tree:
        raise ValueError(
            f"the gradients differ from the parameters: their tree is {tree}, that of the "
            f"parameters is {reference_tree}"
        )


def check_theta(theta: Theta, expected: Theta, *, rule: str) -> None:
    """Checks that θ has the names and the shapes of a rule's θ.

    Args:
      theta: what was given to a rule's `transform`; scalars may be Python floats.
      expected: a θ of this rule, or its shapes (as from `jax.eval_shape(rule.init, key)`).
      rule: the rule's name, for the message.

    Raises:
      ValueError: where a name is missing or unknown or a shape differs; the message names the
        first difference.
    """
    got = {jax.tree_util.keystr(p): np.shape(x) for p, x in jax.tree.leaves_with_path(theta)}
    want = {jax.tree_util.keystr(p): np.shape(x) for p, x in jax.tree.leaves_with_path(expected)}
    if got != want:
        raise ValueError(f"θ is not one of {rule}: {_difference(got, want)}")


def _difference(got: dict[str, tuple[int, ...]], want: dict[str, tuple[int, ...]]) -> str:
    """Names the first entry in which two flat trees of shapes differ."""
    missing = [path for path in want if path not in got]
    unknown = [path for path in got if path not in want]
    if missing or unknown:
        return "; ".join(
            f"{', '.join(path or 'a leaf' for path in paths[:4])}{' …' * (len(paths) > 4)} {what}"
            for paths, what in ((missing, "missing"), (unknown, "unknown"))
            if paths
        )
    path = next(p for p in want if got[p] != want[p])
    return f"{path or 'the leaf'} has shape {got[path]}, expected {want[path]}"
