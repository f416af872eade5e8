"""A text that every Python has: the topics of its help, a million characters of English."""

from typing import Any

from learned_opt.tasks import LanguageModel


def documentation_model(
    network: str = "lstm",
    *,
    hidden_size: int = 32,
    num_layers: int = 1,
    length: int = 16,
    batch_size: int = 16,
) -> LanguageModel:
    """Makes a small `LanguageModel` of the topics of `help()`.

    Args:
      network: 'lstm', 'gru' or 'transformer'.
      hidden_size: features of every layer.
      num_layers: layers.
      length: characters in a piece.
      batch_size: pieces in a minibatch.
    """
    from pydoc_data import topics

    known: dict[str, Any] = topics.topics
    text = "".join(known[name] for name in sorted(known))
    text = "".join(c for c in text if c.isascii())
    return LanguageModel.from_text(
        text,
        network=network,
        hidden_size=hidden_size,
        num_layers=num_layers,
        length=length,
        batch_size=batch_size,
        evaluation_pieces=400,
    )
