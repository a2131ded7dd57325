"""Lightning callbacks, a logger and a profiler that Lightning itself lacks."""

from callbacks.confusion_matrix import ConfusionMatrixPlot
from callbacks.measure import Measure
from callbacks.no_profiler import NoProfiler
from callbacks.progress import Progress
from callbacks.tensorboard import TensorBoard

__all__ = ["ConfusionMatrixPlot", "Measure", "NoProfiler", "Progress", "TensorBoard"]
