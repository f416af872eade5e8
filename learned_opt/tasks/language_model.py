"""Predicting the next character of a text."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt.networks import FlaxNetwork, Network
from learned_opt.tasks import datasets
from learned_opt.tasks.checks import check_network, positive, static
from learned_opt.types import Key, Metrics, Params, Scalar

NETWORKS = ("lstm", "gru", "transformer")
_EVALUATION_BATCH = 100


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """Mean cross-entropy of a network that predicts every next character of pieces of a text.

    f(θ) = −1/(B L) Σ_b Σ_t log softmax(z(x_{b,1..t}))[x_{b,t+1}], nats a character; the B pieces
    start anywhere in the training text, as the key given to `loss` says, and the network from a
    zero state.

    Make one with `language_model` or `LanguageModel.from_text`.

    Attributes:
      text: split -> characters as numbers, int32 `[n]`.
      vocab_size: the number of characters there are.
      network: a `learned_opt.networks.Network` from characters `[batch, length]` to the logits of
        the next ones, `[batch, length, vocab_size]`.
      length: L, characters in a piece.
      batch_size: B, pieces in a minibatch.
      evaluation_pieces: how many pieces, from the start of a split, to evaluate on.
    """

    text: dict[str, jax.Array]
    vocab_size: int = static()
    network: Network = static()
    length: int = static(default=50)
    batch_size: int = static(default=50)
    evaluation_pieces: int = static(default=400)

    @classmethod
    def from_text(
        cls,
        text: str,
        *,
        network: str | Callable[..., Any] = "lstm",
        hidden_size: int | None = None,
        num_layers: int | None = None,
        length: int = 50,
        batch_size: int = 50,
        evaluation_pieces: int = 400,
    ) -> "LanguageModel":
        """Makes a task from a text: its first 80 % train, the next 10 % validate, the rest tests.

        Args:
          text: the text.
          network: 'lstm', 'gru' or 'transformer'; or your own: a function
            `make(vocab_size, length, rngs)` that returns a Flax NNX module from characters
            `[batch, length]` to logits `[batch, length, vocab_size]`, with no state but parameters.
          hidden_size: of a network by name, features of every layer, by default 128; of a
            transformer a multiple of 32.
          num_layers: of a network by name, layers, by default 2.
          length: characters in a piece.
          batch_size: pieces in a minibatch.
          evaluation_pieces: pieces to evaluate on, from the start of a split; fewer if it has
            fewer.

        Raises:
          ValueError: an unknown network, a number below one, a text too short for one piece a
            split, or a network that does not give such logits.

        Example:
          >>> from learned_opt.tasks import LanguageModel
          >>> task = LanguageModel.from_text("abcab" * 20, length=4, batch_size=2, hidden_size=8)
          >>> task.vocab_size, len(task.text["train"]), len(task.text["test"])
          (3, 80, 10)
        """
        sizes = {"length": length, "batch_size": batch_size, "evaluation_pieces": evaluation_pieces}
        sizes = {name: positive(name, size) for name, size in sizes.items()}
        characters, tokens = np.unique(list(text), return_inverse=True)
        cuts = [len(tokens) * 8 // 10, len(tokens) * 9 // 10]
        parts = np.split(tokens.astype(np.int32), cuts)
        if min(map(len, parts)) < length + 1:
            raise ValueError(
                f"a text of {len(tokens)} characters is too short: each tenth must hold "
                f"{length + 1} (length + 1)"
            )
        splits = {s: jnp.asarray(p) for s, p in zip(datasets.SPLITS, parts, strict=True)}
        made = _network(network, len(characters), length, hidden_size, num_layers)
        example = jax.ShapeDtypeStruct((2, length), jnp.int32)
        check_network(made, example, (2, length, len(characters)))
        return cls(splits, len(characters), made, **sizes)

    def sample(self, key: Key) -> tuple[()]:
        """Returns `()`: there is one problem in this family."""
        del key
        return ()

    def init(self, key: Key, instance: tuple[()]) -> Params:
        """Draws the network's parameters, a nested dict."""
        del instance
        return self.network.init(key)

    def loss(self, params: Params, instance: tuple[()], key: Key, split: str = "train") -> Scalar:
        """Returns the mean cross-entropy, nats a character, of pieces of a split drawn by `key`.

        Raises:
          ValueError: there is no such split.
        """
        del instance
        datasets.check_split(split, tuple(self.text))
        last = len(self.text[split]) - self.length
        starts = jax.random.randint(key, (self.batch_size,), 0, last)
        losses, _ = self._measure(params, split, starts)
        return losses.mean()

    def evaluate(self, params: Params, instance: tuple[()], split: str) -> Metrics:
        """Returns the mean cross-entropy and the accuracy over the first pieces of a split.

        Returns:
          `{"loss": nats a character, "accuracy": from 0 to 1}`.

        Raises:
          ValueError: there is no such split.
        """
        del instance
        datasets.check_split(split, tuple(self.text))
        count = min(self.evaluation_pieces, (len(self.text[split]) - 1) // self.length)
        starts = jnp.arange(count) * self.length
        size = min(_EVALUATION_BATCH, count)

        def measure(start):
            losses, hits = self._measure(params, split, start[None])
            return {"loss": losses.mean(), "accuracy": hits.mean(dtype=losses.dtype)}

        return jax.tree.map(jnp.mean, jax.lax.map(measure, starts, batch_size=size))

    def _measure(self, params: Params, split: str, starts: jax.Array):
        """Losses and hits `[pieces, length]` of the pieces that start at `starts`."""
        pieces = self.text[split][starts[:, None] + jnp.arange(self.length + 1)]
        logits = self.network.apply(params, pieces[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, pieces[:, 1:])
        return losses, jnp.argmax(logits, axis=-1) == pieces[:, 1:]


def _network(network, vocab_size, length, hidden_size, num_layers) -> Network:
    """The network of a name or of the user's function."""
    sizes = {"hidden_size": hidden_size, "num_layers": num_layers}
    given = [name for name, size in sizes.items() if size is not None]
    if not isinstance(network, str):
        if given:
            raise ValueError(f"{', '.join(given)} belong to a network by name, not to your own")
        return FlaxNetwork(network, (vocab_size, length))
    if network not in NETWORKS:
        raise ValueError(
            f"unknown network {network!r}; known: {', '.join(NETWORKS)}, or a function "
            "make(vocab_size, length, rngs) that returns a Flax NNX module"
        )
    from learned_opt.networks import sequences  # Flax takes half a second to import

    hidden_size = positive("hidden_size", 128 if hidden_size is None else hidden_size)
    num_layers = positive("num_layers", 2 if num_layers is None else num_layers)
    if network == "transformer":
        shape = (vocab_size, hidden_size, num_layers, length)
        return FlaxNetwork(sequences.CharacterTransformer, shape)
    layer = {"lstm": sequences.LSTMLayer, "gru": sequences.GRULayer}[network]
    return FlaxNetwork(sequences.CharacterRNN, (layer, vocab_size, hidden_size, num_layers))


def language_model(
    text_file: str | os.PathLike[str],
    *,
    network: str | Callable[..., Any] = "lstm",
    hidden_size: int | None = None,
    num_layers: int | None = None,
    length: int = 50,
    batch_size: int = 50,
    evaluation_pieces: int = 400,
) -> LanguageModel:
    """Makes a `LanguageModel` on a text file, UTF-8.

    Args:
      text_file: the file.
      network: 'lstm', 'gru', 'transformer' or your own, see `LanguageModel.from_text`.
      hidden_size: of a network by name, features of every layer, by default 128.
      num_layers: of a network by name, layers, by default 2.
      length: characters in a piece.
      batch_size: pieces in a minibatch.
      evaluation_pieces: pieces to evaluate on.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no UTF-8 text, or see `LanguageModel.from_text`.
    """
    path = Path(text_file)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no text file {str(text_file)!r}; set text_file to any text in UTF-8"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None
    return LanguageModel.from_text(
        text,
        network=network,
        hidden_size=hidden_size,
        num_layers=num_layers,
        length=length,
        batch_size=batch_size,
        evaluation_pieces=evaluation_pieces,
    )
