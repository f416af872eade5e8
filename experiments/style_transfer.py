r"""Paints a photograph in the style of a painting, with a learned rule or any other optimizer.

    python -m experiments.style_transfer --content=photo.jpg --style=painting.png --size=128 \
        --output=out.png [--rule=… --steps=… --save_every=…]

Without arguments it gives scikit-learn's photograph of a Chinese palace the style of van Gogh's
church at Auvers, with the learned rule `lstm_style`: nothing is downloaded, and it takes half a
minute. `--content` and `--style` are paths, or one of the pictures that need no download: 'china'
and 'flower'; 'church_at_auvers', 'starry_night', 'scream' and 'minotaur'. The middle square of each
is used. The style may be painted with a heavier hand: `--style_weight=30`.
"""

import functools
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging
from PIL import Image

from experiments.common.build import HAND_DESIGNED, load_rule
from experiments.common.lookup import expand
from experiments.common.output import tolerate_encodings
from experiments.common.progress import Progress
from learned_opt.tasks import StyleTransfer, pictures
from learned_opt.tasks.style_transfer import as_picture
from learned_opt.types import InnerState, Theta, UpdateRule
from learned_opt.unroll import fast_transform, unroll

# Learning rates that suit 64 × 64 pixels; other hand-designed rules have their defaults.
RATES = {"sgd": 5.0, "momentum": 15.0, "nesterov": 10.0, "rmsprop": 0.05, "adam": 0.3}
_PER_PIXEL = ("sgd", "momentum", "nesterov")  # the more pixels, the smaller is the gradient of each
_CHUNK = 8  # steps between two lines of progress


def paint(
    task: StyleTransfer,
    rule: UpdateRule,
    theta: Theta,
    output: Path,
    *,
    num_steps: int,
    save_every: int = 0,
) -> tuple[float, float]:
    """Runs the optimizer on the first content and style, and writes the picture.

    Args:
      task: the task.
      rule: the update rule.
      theta: its θ.
      output: the picture to write; those of `save_every` are `STEM_STEP.ENDING` beside it.
      num_steps: updates.
      save_every: see above; 0 writes the last picture alone.

    Returns:
      The losses of the first and of the last picture.

    Raises:
      FloatingPointError: the optimizer diverged.
    """
    tx, key = fast_transform(rule, theta), jax.random.key(0)
    instance = jax.jit(lambda task: task.instance(0, 0))(task)
    state = InnerState(instance, instance["start"], jax.jit(tx.init)(instance["start"]))
    advance = jax.jit(functools.partial(unroll, tx), static_argnames="num_steps")
    measure = jax.jit(lambda task, params: task.evaluate(params, instance, "train")["loss"])
    first = loss = float(measure(task, state.params))
    with Progress("style transfer", 0, num_steps) as bar:
        bar.update(0, {"loss": first})
        done = 0
        while done < num_steps:
            stops = [num_steps, done + _CHUNK]
            if save_every:
                stops.append(done - done % save_every + save_every)
            steps = min(stops) - done
            state, _ = advance(task, state, key, num_steps=steps)
            done += steps
            loss = float(measure(task, state.params))
            if not np.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss} after {done} updates: take a smaller --learning_rate, or "
                    "another --rule"
                )
            if done == num_steps or (save_every and done % save_every == 0):
                picture = Image.fromarray(as_picture(state.params))
                if save_every:
                    picture.save(output.with_stem(f"{output.stem}_{done:04d}"))
                picture.save(output)
            bar.update(done, {"loss": loss})
    return first, loss


def make_picture(values: Any) -> None:
    """Makes the picture that the flags, attributes of `values`, ask for.

    Raises:
      FileNotFoundError: a picture, or the folder to write to, is missing.
      ValueError: a file that is no picture, or a value that cannot be.
      FloatingPointError: the optimizer diverged.
    """
    for name, least in [("steps", 1), ("save_every", 0)]:
        if getattr(values, name) < least:
            raise ValueError(f"--{name} must be at least {least}, got {getattr(values, name)}")
    output = expand(values.output)
    if Image.registered_extensions().get(output.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"--output must end as a picture does, in .png for example, got {output}")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {output.parent} for --output")
    size = pictures.check_size(values.size)
    if values.content in pictures.PHOTOGRAPHS:
        content = pictures.photograph(values.content, size)
    else:
        content = pictures.read_picture(expand(values.content), size)
    style = values.style if values.style in pictures.PAINTINGS else str(expand(values.style))
    task = StyleTransfer.from_arrays(
        content[np.newaxis],
        pictures.styles(style, None, size),
        style_weight=values.style_weight,
        variation_weight=values.variation_weight,
    )
    rule, theta = load_rule(values.rule)
    rate = values.learning_rate
    if values.rule not in HAND_DESIGNED and rate is not None:
        raise ValueError(
            f"--learning_rate is for hand-designed rules; write --rule={values.rule}@FACTOR to "
            "lengthen or shorten the steps of a learned one"
        )
    if rate is None and values.rule in RATES:
        rate = RATES[values.rule] * ((size / 64) ** 2 if values.rule in _PER_PIXEL else 1)
    if rate is not None:
        theta = theta | {"learning_rate": np.float32(rate)}
    begin = time.monotonic()
    first, last = paint(
        task, rule, theta, output, num_steps=values.steps, save_every=values.save_every
    )
    seconds = time.monotonic() - begin
    print(f"loss {first:.3f} at first, {last:.3f} after {values.steps} updates, {seconds:.0f} s")
    print(f"picture: {output}")


def main(argv: list[str]) -> None:
    """Makes the picture that the flags ask for."""
    tolerate_encodings()
    if not flags.FLAGS["verbosity"].present:  # JAX tells which accelerators it has not found
        logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise ValueError(f"unexpected arguments: {' '.join(argv[1:])}")
        with warnings.catch_warnings():
            warnings.showwarning = _note
            make_picture(flags.FLAGS)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _note(message, category, filename, lineno, file=None, line=None) -> None:
    del category, filename, lineno, file, line
    print(f"note: {message}", file=sys.stderr)


if __name__ == "__main__":
    flags.DEFINE_string("content", "china", "the picture whose content is kept")
    flags.DEFINE_string("style", "church_at_auvers", "the picture whose style is taken")
    flags.DEFINE_integer("size", 128, "pixels of a side, a multiple of 4")
    flags.DEFINE_string("output", "style_transfer.png", "the picture to write")
    flags.DEFINE_string(
        "rule",
        "lstm_style",
        "a pretrained or hand-designed rule, the path of a theta.npz, or 'module:name'",
    )
    flags.DEFINE_float("learning_rate", None, "of a hand-designed rule")
    flags.DEFINE_integer("steps", 128, "updates")
    flags.DEFINE_integer("save_every", 0, "also write the picture every so many updates; 0: never")
    flags.DEFINE_float("style_weight", 10.0, "how much the style counts; the content counts 1")
    flags.DEFINE_float("variation_weight", 2.0, "how much smoothness counts")
    app.run(main)
