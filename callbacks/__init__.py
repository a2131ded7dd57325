"""Lightning callbacks, a logger, a profiler and a way to write checkpoints that Lightning itself lacks."""

from callbacks.atomic_checkpoint import AtomicCheckpointIO
from callbacks.confusion_matrix import ConfusionMatrixPlot
from callbacks.evaluation import MistakesPlot, ReliabilityPlot
from callbacks.explanation import ExplanationPlot
from callbacks.finetuning import Finetuning
from callbacks.last_checkpoint import LastCheckpoint
from callbacks.measure import Measure
from callbacks.no_profiler import NoProfiler
from callbacks.progress import Progress
from callbacks.tensorboard import TensorBoard

__all__ = [
    "AtomicCheckpointIO",
    "ConfusionMatrixPlot",
    "ExplanationPlot",
    "Finetuning",
    "LastCheckpoint",
    "Measure",
    "MistakesPlot",
    "NoProfiler",
    "Progress",
    "ReliabilityPlot",
    "TensorBoard",
]
