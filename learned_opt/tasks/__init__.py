"""What is optimized: one file a family of problems."""

from learned_opt.tasks.augmented import Augmented
from learned_opt.tasks.classifier import Classifier, image_classifier
from learned_opt.tasks.convex_term import WithConvexTerm
from learned_opt.tasks.families import PerceptronFamily, perceptron_family
from learned_opt.tasks.flax_model import FlaxTask, from_flax
from learned_opt.tasks.language_model import LanguageModel, language_model
from learned_opt.tasks.noisy import WithBatchSizes, WithGradientNoise
from learned_opt.tasks.quadratic import Quadratic
from learned_opt.tasks.regression import Regression, autoencoder, regression
from learned_opt.tasks.regularized import WithPenalty, WithWeightNoise
from learned_opt.tasks.rescaled import Rescaled
from learned_opt.tasks.style_transfer import StyleTransfer, style_transfer
from learned_opt.tasks.surfaces import SURFACES, Surface

__all__ = [
    "SURFACES",
    "Augmented",
    "Classifier",
    "FlaxTask",
    "LanguageModel",
    "PerceptronFamily",
    "Quadratic",
    "Regression",
    "Rescaled",
    "StyleTransfer",
    "Surface",
    "WithBatchSizes",
    "WithConvexTerm",
    "WithGradientNoise",
    "WithPenalty",
    "WithWeightNoise",
    "autoencoder",
    "from_flax",
    "image_classifier",
    "language_model",
    "perceptron_family",
    "regression",
    "style_transfer",
]
