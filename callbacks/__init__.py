"""Lightning callbacks, a logger, a profiler and a way to write checkpoints that Lightning itself lacks."""

from callbacks.atomic_checkpoint import AtomicCheckpointIO
from callbacks.best_checkpoint import BestCheckpoint
from callbacks.confusion_matrix import ConfusionMatrixPlot
from callbacks.curves import CurvesPlot
from callbacks.ema import EMA
from callbacks.evaluation import MistakesPlot, PrecisionRecall, ReliabilityPlot
from callbacks.explanation import ExplanationPlot
from callbacks.findings import Findings
from callbacks.finetuning import Finetuning
from callbacks.last_checkpoint import LastCheckpoint
from callbacks.measure import Measure
from callbacks.no_profiler import NoProfiler
from callbacks.optimization import OptimizationMonitor
from callbacks.pictures import NetworkPictures
from callbacks.preflight import Preflight
from callbacks.progress import Progress
from callbacks.tensorboard import TensorBoard

__all__ = [
    "EMA",
    "AtomicCheckpointIO",
    "BestCheckpoint",
    "ConfusionMatrixPlot",
    "CurvesPlot",
    "ExplanationPlot",
    "Findings",
    "Finetuning",
    "LastCheckpoint",
    "Measure",
    "MistakesPlot",
    "NetworkPictures",
    "NoProfiler",
    "OptimizationMonitor",
    "PrecisionRecall",
    "Preflight",
    "Progress",
    "ReliabilityPlot",
    "TensorBoard",
]
