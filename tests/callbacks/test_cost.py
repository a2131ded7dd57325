"""The cost of a network, and the error of one that does not work."""

import pytest
import torch
from torch import nn

from callbacks.run_metrics import cost


class LooksAtValues(nn.Module):
    """Its forward pass depends on values, which the meta device does not have."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 5)

    def forward(self, images):
        features = images.flatten(1)
        return self.linear(features if features.sum().item() < 1e9 else features / 2)


def test_a_network_that_looks_at_values_has_the_cost_of_its_layer():
    assert cost(LooksAtValues(), (3, 2, 2)) == (12 * 5 + 5, 2 * 12 * 5)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(7, 5)), r"model: 1 \(Linear\(.*\)\) fails on input of shape \(1, 12\)"),
        (nn.Sequential(nn.Conv2d(1, 4, 1)), r"model: 0 \(Conv2d\(.*\)\) fails on input of shape \(1, 3, 2, 2\)"),
        (nn.Sequential(LooksAtValues(), LooksAtValues()), r"model: 1.linear \(Linear.* input of shape \(1, 5\)"),
    ],
)
def test_the_layer_that_fails_is_named_and_the_network_is_unchanged(network, message):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        cost(network, (3, 2, 2))
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in network.modules())
