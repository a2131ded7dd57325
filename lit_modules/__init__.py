"""LightningModules: loss, metrics and optimisation of a given backbone."""

from lit_modules.classifier import Classifier
from lit_modules.evaluator import Evaluator
from lit_modules.predictor import Predictor
from lit_modules.schedules import cosine, one_cycle, step

__all__ = ["Classifier", "Evaluator", "Predictor", "cosine", "one_cycle", "step"]
