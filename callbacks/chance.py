"""Compare accuracies with chance, given the number of images they were measured on."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Binomial

GAP = 0.2  # in accuracy: smaller drops are not reported
RARE = 0.01  # the accepted probability that a claim about a sample is wrong
QUANTILE = 2.326  # of the normal distribution, for RARE
ROUNDING = 1e-6  # error of a float32 accuracy


class Guessing(NamedTuple):
    """The accuracy of guessing on a sample of images.

    Args:
        share: the accuracy of always predicting the most frequent class.
        limit: the accuracy that guessing exceeds in fewer than 1 of 100 trainings; ``share`` if there are so few images
            that guessing may get all of them right.
        images: the size of the sample.
        answer: the most frequent class.
    """

    share: float
    limit: float
    images: int
    answer: int

    @property
    def clearly_better(self) -> float:
        """A useful accuracy: 0.6 for two balanced classes, 0.2 for ten, 0.02 for a hundred."""
        return self.share + min(self.share, (1 - self.share) / 5)

    def compare(self, accuracy: float) -> str:
        """``above`` chance, at ``chance``, or ``unclear`` if there are too few images to decide.

        At chance, a clearly better network would rarely score so low.
        """
        if accuracy - self.limit > ROUNDING:
            return "above"
        return "chance" if interval(accuracy, self.images)[1] < self.clearly_better else "unclear"


def guessing(labels: Tensor, tries: int = 1, images: int | None = None) -> Guessing:
    """The accuracy of guessing on images with these labels.

    Args:
        labels: ``(N,)`` int64.
        tries: number of validations, of which the best counts.
        images: number of scored images, if not N.
    """
    counts, images = labels.bincount(), images or len(labels)
    share = counts.max().item() / len(labels)
    hits = torch.arange(images + 1, dtype=torch.float64)
    exactly = Binomial(images, torch.tensor(share, dtype=torch.float64), validate_args=False).log_prob(hits).exp()
    at_least = exactly.flip(0).cumsum(0).flip(0)  # (images + 1,), the probability of so many hits or more
    rare = hits[at_least * max(1, tries) < RARE]  # empty for one class, whose probabilities are NaN
    limit = (rare[0].item() - 1) / images if len(rare) else share
    return Guessing(share, limit, images, int(counts.argmax()))


def interval(accuracy: float, images: int) -> tuple[float, float]:
    """Bounds of the accuracy on all images of this kind (Wilson 1927); each is wrong for one sample in a hundred."""
    z = QUANTILE**2 / images
    middle, reach = accuracy + z / 2, math.sqrt(z * (accuracy * (1 - accuracy) + z / 4))
    return (middle - reach) / (1 + z), (middle + reach) / (1 + z)


def judge(labels: Tensor, validations: int, best: float, now: float, train: str) -> str | None:
    """The verdict on the validations: ``chance``, ``unclear``, ``fell``, ``fell to chance``, or None (no suspicion).

    Args:
        labels: of the validation images.
        validations: number of validations.
        best, now: the best and the last validation accuracy.
        train: the result of ``Guessing.compare`` for the training images.
    """
    chance = guessing(labels)
    level = chance.compare(now)
    if level == "above" or len(labels.unique()) == 1:  # one class is not enough to judge a network
        return None
    if best - guessing(labels, validations).limit < ROUNDING:
        certain = train == "chance" or level == "chance" and best < chance.clearly_better
        return "chance" if certain else "unclear"
    if best - now > GAP and interval(best, len(labels))[0] > interval(now, len(labels))[1]:
        return "fell to chance" if level == "chance" else "fell"
    return None
