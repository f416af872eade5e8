"""Character tasks against recurrences in NumPy, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from learned_opt.tasks import LanguageModel, language_model

TEXT = "".join(np.random.default_rng(0).choice(list("abcde \n"), 400))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_losses(params, text, piece_length, vocab_size, count):
    """Losses of `count` consecutive pieces, one character after another."""
    losses, hits = [], []
    for n in range(count):
        piece = text[n * piece_length : (n + 1) * piece_length + 1]
        states = [(np.zeros(5), np.zeros(5)) for _ in params["layers"]]
        for now, following in zip(piece[:-1], piece[1:], strict=True):
            x = np.eye(vocab_size)[now]
            for n_layer, layer in enumerate(params["layers"].values()):
                h, c = states[n_layer]
                i, f, g, o = np.split(
                    x @ layer["kernel"] + h @ layer["recurrent"] + layer["bias"], 4
                )
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                x = sigmoid(o) * np.tanh(c)
                states[n_layer] = x, c
            z = x @ params["output"]["kernel"] + params["output"]["bias"]
            losses.append(np.log(np.exp(z).sum()) - z[following])
            hits.append(z.argmax() == following)
    return np.mean(losses), np.mean(hits)


def test_the_lstm_in_numpy():
    task = LanguageModel.from_text(TEXT, hidden_size=5, length=6, batch_size=3)
    params = task.init(jax.random.key(0), ())
    plain = jax.tree.map(np.asarray, params)
    text = np.asarray(task.text["valid"])
    loss, accuracy = lstm_losses(plain, text, 6, task.vocab_size, 6)
    found = task.evaluate(params, (), "valid")
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], accuracy, rtol=1e-6)


def test_the_gru_in_numpy():
    task = LanguageModel.from_text(TEXT, network="gru", hidden_size=5, num_layers=2, length=6)
    params = task.init(jax.random.key(0), ())
    params = jax.tree.map(lambda w: w + 0.1, params)  # biases that are not 0
    plain = jax.tree.map(np.asarray, params)
    characters = np.asarray(task.text["valid"][:7])
    states, logits = [np.zeros(5), np.zeros(5)], []
    for now in characters:
        x = np.eye(task.vocab_size)[now]
        for n, layer in enumerate(plain["layers"].values()):
            h = states[n]
            x_r, x_z, x_n = np.split(x @ layer["kernel"] + layer["bias"], 3)
            h_r, h_z, h_n = np.split(h @ layer["recurrent"], 3)
            reset, keep = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
            states[n] = x = keep * h + (1 - keep) * np.tanh(x_n + reset * h_n)
        logits.append(x @ plain["output"]["kernel"] + plain["output"]["bias"])
    found = task.network.apply(params, jnp.asarray(characters[None]))
    np.testing.assert_allclose(found[0], logits, atol=1e-5)


def test_the_splits_are_the_text_in_order():
    task = LanguageModel.from_text(TEXT, length=6, batch_size=3)
    letters = sorted(set(TEXT))
    joined = "".join(letters[i] for s in ("train", "valid", "test") for i in task.text[s])
    assert joined == TEXT
    assert [len(x) for x in task.text.values()] == [320, 40, 40]


def test_the_minibatch_is_of_pieces_of_the_training_text():
    task = LanguageModel.from_text(TEXT, hidden_size=5, length=6, batch_size=1)
    params = task.init(jax.random.key(0), ())
    plain = jax.tree.map(np.asarray, params)
    text = np.asarray(task.text["train"])
    possible = [lstm_losses(plain, text[n : n + 7], 6, task.vocab_size, 1)[0] for n in range(314)]
    for seed in range(3):
        loss = task.loss(params, (), jax.random.key(seed))
        assert np.isclose(loss, possible, rtol=1e-5).any()


def test_the_transformer_sees_no_later_character():
    task = LanguageModel.from_text(TEXT, network="transformer", hidden_size=32, length=6)
    params = task.init(jax.random.key(0), ())
    apply = task.network.apply
    characters = jnp.asarray([[0, 1, 2, 3, 4, 5]])
    changed = characters.at[0, 3].set(0)
    before, after = apply(params, characters), apply(params, changed)
    np.testing.assert_allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert (np.abs(np.asarray(before - after))[0, 3:].max(axis=-1) > 1e-4).all()


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown network 'rnn'; known: lstm, gru, transformer"):
        LanguageModel.from_text(TEXT, network="rnn", length=6)
    with pytest.raises(ValueError, match="num_layers belong to a network by name"):
        LanguageModel.from_text(TEXT, network=Bigram, num_layers=1, length=6)
    with pytest.raises(ValueError, match="400 characters is too short: each tenth must hold 51"):
        LanguageModel.from_text(TEXT)
    with pytest.raises(ValueError, match="must divide by 32, got 40"):
        LanguageModel.from_text(TEXT, network="transformer", hidden_size=40, length=6)
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        LanguageModel.from_text(TEXT, batch_size=0)
    with pytest.raises(FileNotFoundError, match="there is no text file .*war.txt"):
        language_model(tmp_path / "war.txt")
    (tmp_path / "war.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        language_model(tmp_path / "war.txt")


class Bigram(nnx.Module):
    def __init__(self, vocab_size, length, rngs):
        self.table = nnx.Param(jax.random.normal(rngs.params(), (vocab_size, vocab_size)))

    def __call__(self, characters):
        return self.table[...][characters]


def test_a_network_of_the_user_s_own():
    task = LanguageModel.from_text(TEXT, network=Bigram, length=6, batch_size=3)
    params = task.init(jax.random.key(0), ())
    table, text = np.asarray(params["table"]), np.asarray(task.text["valid"])
    losses = [
        np.log(np.exp(table[now]).sum()) - table[now, following]
        for now, following in zip(text[:36], text[1:37], strict=True)
    ]
    np.testing.assert_allclose(task.evaluate(params, (), "valid")["loss"], np.mean(losses), 1e-5)


def test_a_byte_order_mark_is_no_character(tmp_path):
    (tmp_path / "war.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    task = language_model(tmp_path / "war.txt", length=6)
    assert task.vocab_size == len(set(TEXT))
