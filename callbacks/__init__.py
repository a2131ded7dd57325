"""Lightning callbacks, and a logger, that Lightning itself lacks."""

from callbacks.confusion_matrix import ConfusionMatrixPlot
from callbacks.measure import Measure
from callbacks.progress import Progress
from callbacks.tensorboard import TensorBoard

__all__ = ["ConfusionMatrixPlot", "Measure", "Progress", "TensorBoard"]
