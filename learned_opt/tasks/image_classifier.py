"""A multilayer perceptron that classifies images: the optimizee of the paper's MNIST experiments."""

import dataclasses
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt.tasks import datasets

_ACTIVATIONS = {
    'sigmoid': jax.nn.sigmoid,
    'tanh': jnp.tanh,
    'relu': jax.nn.relu,
    'gelu': jax.nn.gelu,
}
_EVALUATION_BATCH = 2000  # Examples in memory at once when a whole split is evaluated.


def _static(**kwargs):
    return dataclasses.field(metadata={'static': True}, **kwargs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageClassifier:
    r"""Cross-entropy of a multilayer perceptron on labelled images.

    .. math::
        f(\theta) = -\frac{1}{B} \sum_{b=1}^{B} \log \mathrm{softmax}(z(x_b; \theta))_{y_b}, \qquad
        z = W_L h_L + b_L, \; h_{l+1} = \sigma(W_l h_l + b_l), \; h_0 = x / x_{\max}

    with B examples drawn with replacement from the training split by the key of the loss. Every
    weight and every bias starts from :math:`N(0, 0.01^2)`, and pixels are scaled to [0, 1] and not
    centred, both as in the paper's published code.

    Make one with ``image_classifier`` (a named data set) or ``ImageClassifier.from_arrays`` (your
    own data): they check what they are given. The data are leaves of this PyTree, so hand the task
    to jitted functions as an argument.

    Attributes:
        images: For each split an array [n, pixels], uint8 or floating point.
        labels: For each split an array int32 [n].
        num_classes: Number of classes.
        hidden_sizes: Widths of the hidden layers; ``()`` is softmax regression.
        activation: ``'sigmoid'``, ``'tanh'``, ``'relu'`` or ``'gelu'``.
        batch_size: Number B of examples in a minibatch.
        init_scale: Standard deviation of the parameters at the start.
        max_pixel: Images are divided by it.

    References:
        Andrychowicz et al., `Learning to learn by gradient descent by gradient descent
        <https://arxiv.org/abs/1606.04474>`_, 2016.
    """

    images: dict[str, Any]
    labels: dict[str, Any]
    num_classes: int = _static()
    hidden_sizes: tuple[int, ...] = _static(default=(20,))
    activation: str = _static(default='sigmoid')
    batch_size: int = _static(default=128)
    init_scale: float = _static(default=0.01)
    max_pixel: float = _static(default=255.0)

    @classmethod
    def from_arrays(
        cls,
        splits,
        *,
        num_classes,
        hidden_sizes=(20,),
        activation='sigmoid',
        batch_size=128,
        init_scale=0.01,
        max_pixel=None,
    ):
        """Makes the task from arrays.

        Args:
            splits: ``{'train': (images, labels), …}`` with, as far as there are any, also
                ``'valid'`` and ``'test'``. Images are uint8 or floating point [n, …], labels
                integers [n] from 0 to num_classes - 1.
            num_classes: Number of classes.
            hidden_sizes: Widths of the hidden layers.
            activation: Name of the activation function.
            batch_size: Number of examples in a minibatch.
            init_scale: Standard deviation of the parameters at the start.
            max_pixel: What images are divided by; by default 255 for uint8 and 1 for floats.

        Returns:
            An ``ImageClassifier`` with the data on the default device.

        Raises:
            ValueError: If a choice is unknown or out of range, or the arrays do not fit together,
                are empty, or contain a NaN or an infinity.

        Example:
            >>> import jax, numpy as np
            >>> from learned_opt.tasks import ImageClassifier
            >>> images, labels = np.zeros((6, 4, 4), np.uint8), np.arange(6) % 3
            >>> task = ImageClassifier.from_arrays(
            ...     {'train': (images, labels)}, num_classes=3, hidden_sizes=(5,), batch_size=2
            ... )
            >>> params = task.init(jax.random.key(0), ())
            >>> params['dense_0']['kernel'].shape, params['dense_1']['kernel'].shape
            ((16, 5), (5, 3))
        """
        num_classes = _positive('num_classes', num_classes)
        hidden_sizes = tuple(_positive('hidden_sizes', size) for size in hidden_sizes)
        batch_size = _positive('batch_size', batch_size)
        if activation not in _ACTIVATIONS:
            known = ', '.join(_ACTIVATIONS)
            raise ValueError(f'unknown activation {activation!r}; known: {known}')
        if not init_scale >= 0:
            raise ValueError(f'init_scale must not be negative, got {init_scale}')
        if 'train' not in splits:
            raise ValueError('splits must have an entry for train')
        arrays = {}
        for split, (images, labels) in splits.items():
            datasets.check_split(split)
            arrays[split] = _check_examples(split, images, labels, num_classes)
        if len({(images.shape[1], images.dtype) for images, _ in arrays.values()}) > 1:
            raise ValueError('all splits must have images of one shape and one dtype')
        train_images = arrays['train'][0]
        if batch_size > len(train_images):
            raise ValueError(
                f'batch_size {batch_size} is larger than the {len(train_images)} training examples'
            )
        if max_pixel is None:
            max_pixel = 255.0 if train_images.dtype == np.uint8 else 1.0
        if not max_pixel > 0:
            raise ValueError(f'max_pixel must be positive, got {max_pixel}')
        return cls(
            images={split: jnp.asarray(images) for split, (images, _) in arrays.items()},
            labels={split: jnp.asarray(labels) for split, (_, labels) in arrays.items()},
            num_classes=num_classes,
            hidden_sizes=hidden_sizes,
            activation=activation,
            batch_size=batch_size,
            init_scale=float(init_scale),
            max_pixel=float(max_pixel),
        )

    def sample(self, key):
        """There is one problem in this family: returns ``()``."""
        del key
        return ()

    def init(self, key, instance):
        """Draws the parameters, ``{'dense_0': {'kernel': [in, out], 'bias': [out]}, …}``."""
        del instance
        sizes = (self.images['train'].shape[1], *self.hidden_sizes, self.num_classes)
        params = {}
        for i, (num_in, num_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            kernel_key, bias_key = jax.random.split(jax.random.fold_in(key, i))
            params[f'dense_{i}'] = {
                'kernel': self.init_scale * jax.random.normal(kernel_key, (num_in, num_out)),
                'bias': self.init_scale * jax.random.normal(bias_key, (num_out,)),
            }
        return params

    def loss(self, params, instance, key):
        """Mean cross-entropy, a scalar in nats, of a training minibatch drawn by ``key``."""
        del instance
        images, labels = self.images['train'], self.labels['train']
        rows = jax.random.randint(key, (self.batch_size,), 0, len(labels))
        logits = self._logits(params, images[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]).mean()

    def evaluate(self, params, instance, split):
        """Mean cross-entropy and accuracy over a whole split.

        Args:
            params: Parameters, as from ``init``.
            instance: ``()``.
            split: ``'train'``, ``'valid'`` or ``'test'``.

        Returns:
            ``{'loss': scalar in nats, 'accuracy': scalar in 0 … 1}``.

        Raises:
            ValueError: If the task has no such split.
        """
        del instance
        datasets.check_split(split, tuple(self.images))

        def measure(example):
            image, label = example
            logits = self._logits(params, image)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
            return {'loss': loss, 'accuracy': (jnp.argmax(logits) == label).astype(loss.dtype)}

        examples = (self.images[split], self.labels[split])
        metrics = jax.lax.map(measure, examples, batch_size=_EVALUATION_BATCH)
        return jax.tree.map(jnp.mean, metrics)

    def _logits(self, params, images):
        """Maps images [..., pixels] to logits [..., num_classes]."""
        activate = _ACTIVATIONS[self.activation]
        hidden = images.astype(params['dense_0']['kernel'].dtype) / self.max_pixel
        for i in range(len(params)):
            if i > 0:
                hidden = activate(hidden)
            layer = params[f'dense_{i}']
            hidden = hidden @ layer['kernel'] + layer['bias']
        return hidden


def image_classifier(
    dataset='digits',
    *,
    hidden_sizes=(20,),
    activation='sigmoid',
    batch_size=128,
    init_scale=0.01,
    data_dir=None,
    valid_size=None,
):
    """Makes an ``ImageClassifier`` on a named data set.

    Args:
        dataset: ``'digits'``, ``'mnist'`` or ``'fashion_mnist'``.
        hidden_sizes: Widths of the hidden layers; ``()`` is softmax regression.
        activation: ``'sigmoid'``, ``'tanh'``, ``'relu'`` or ``'gelu'``.
        batch_size: Number of examples in a minibatch.
        init_scale: Standard deviation of the parameters at the start.
        data_dir: Folder of TFDS data sets; by default ``TFDS_DATA_DIR``.
        valid_size: Number of examples to cut from the training data for validation.

    Returns:
        An ``ImageClassifier``.

    Raises:
        FileNotFoundError: If the data set is missing and cannot be prepared here.
        ValueError: If a choice is unknown or out of range.

    Example:
        >>> import jax
        >>> from learned_opt.tasks import image_classifier
        >>> task = image_classifier('digits', hidden_sizes=(20,), activation='relu')
        >>> key = jax.random.key(0)
        >>> params = task.init(key, task.sample(key))
        >>> sorted(task.evaluate(params, (), 'valid'))
        ['accuracy', 'loss']
    """
    data = datasets.load_dataset(dataset, data_dir, valid_size=valid_size)
    return ImageClassifier.from_arrays(
        data.splits,
        num_classes=data.num_classes,
        hidden_sizes=hidden_sizes,
        activation=activation,
        batch_size=batch_size,
        init_scale=init_scale,
        max_pixel=data.max_pixel,
    )


def _positive(name, value):
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f'{name} must be a positive integer, got {value!r}') from None
    if number < 1:
        raise ValueError(f'{name} must be positive, got {number}')
    return number


def _check_examples(split, images, labels, num_classes):
    """Returns images [n, pixels] and int32 labels [n], or raises a ValueError."""
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim < 2 or images.size == 0:
        raise ValueError(f'{split}: images must be a non-empty array [n, …], got {images.shape}')
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f'{split}: labels must be [n] for images [n, …], got {labels.shape} and {images.shape}'
        )
    if not (images.dtype == np.uint8 or jnp.issubdtype(images.dtype, jnp.floating)):
        raise ValueError(f'{split}: images must be uint8 or floating point, got {images.dtype}')
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f'{split}: labels must be integers, got {labels.dtype}')
    if not np.isfinite(images).all():
        raise ValueError(f'{split}: images contain NaN or infinite values')
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f'{split}: labels must lie in 0 … {num_classes - 1}, '
            f'got {labels.min()} … {labels.max()}'
        )
    return images.reshape(len(images), -1), labels.astype(np.int32)
