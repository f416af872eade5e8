"""What is optimized: one file a family of problems."""

from learned_opt.tasks.classifier import ImageClassifier, image_classifier
from learned_opt.tasks.conv_classifier import ConvClassifier, conv_classifier
from learned_opt.tasks.flax_model import FlaxTask, from_flax
from learned_opt.tasks.language_model import CharacterModel, character_model
from learned_opt.tasks.quadratic import Quadratic
from learned_opt.tasks.surfaces import SURFACES, Surface

__all__ = [
    "SURFACES",
    "CharacterModel",
    "ConvClassifier",
    "FlaxTask",
    "ImageClassifier",
    "Quadratic",
    "Surface",
    "character_model",
    "conv_classifier",
    "from_flax",
    "image_classifier",
]
