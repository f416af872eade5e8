"""What is optimized: one file a family of problems."""

from learned_opt.tasks.image_classifier import ImageClassifier, image_classifier
from learned_opt.tasks.quadratic import Quadratic

__all__ = ['ImageClassifier', 'Quadratic', 'image_classifier']
