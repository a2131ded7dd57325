"""An exponential moving average of the weights."""

from callbacks.averaged_weights import AveragedWeights


class EMA(AveragedWeights):
    """Validate, test and save an exponential moving average of the weights and of batch norm's statistics.

    The average starts as the weights after the first update. Update n + 1 moves it towards the current weights by
    ``1 - decay``, at first by ``9 / (10 + n)``, so that a short training forgets the initial weights too.

    Args:
        decay: from 0 to below 1. The average spans about ``update_every_n_steps / (1 - decay)`` steps, fewer at first.
        update_every_n_steps: optimizer steps between two updates.
    """

    def __init__(self, decay: float = 0.999, update_every_n_steps: int = 1):
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}; expected 0 to below 1, such as 0.999")
        super().__init__(update_every_n_steps)
        self.decay = decay

    def kept(self, updates: int) -> float:
        return min(self.decay, (1 + updates) / (10 + updates))
