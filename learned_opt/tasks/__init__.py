"""What is optimized: one file a family of problems."""

from learned_opt.tasks.image_classifier import ImageClassifier, image_classifier
from learned_opt.tasks.quadratic import Quadratic
from learned_opt.tasks.surfaces import SURFACES, Surface

__all__ = ["SURFACES", "ImageClassifier", "Quadratic", "Surface", "image_classifier"]
