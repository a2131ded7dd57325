import pytest
import torch
from torch import nn

from models import LeNet


def test_at_32_pixels_it_is_the_homeworks_network():
    shapes = {name: tuple(p.shape) for name, p in LeNet().named_parameters() if name.endswith("weight")}
    assert shapes == {
        "conv1.weight": (16, 3, 5, 5),
        "conv2.weight": (32, 16, 5, 5),
        "fc1.weight": (120, 32 * 5 * 5),
        "fc2.weight": (84, 120),
        "fc3.weight": (10, 84),
    }
    # 1,216 + 12,832 + 96,120 + 10,164 + 850
    assert sum(p.numel() for p in LeNet().parameters()) == 121_182


def test_it_computes_what_the_layers_in_sequence_compute():
    net = LeNet()
    layers = [net.conv1, nn.ReLU(), net.pool1, net.conv2, nn.ReLU(), net.pool2, nn.Flatten()]
    layers += [net.fc1, nn.ReLU(), net.fc2, nn.ReLU(), net.fc3]
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(net(images), nn.Sequential(*layers)(images))


@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 16, 2), (1, 28, 10), (3, 33, 7), (3, 64, 100)])
def test_other_sizes_are_computed(channels, size, classes):
    net = LeNet(channels, classes, size)
    assert net(torch.randn(2, channels, size, size)).shape == (2, classes)


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match=r"image_size=15 .* 16"):
        LeNet(image_size=15)


def test_lenet_has_a_head_and_its_input_are_the_features():
    network = LeNet(image_size=32).eval()
    seen = []
    network.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    logits = network(torch.randn(2, 3, 32, 32))
    assert torch.equal(network.head(seen[0]), logits)
    assert seen[0].shape == (2, 84)
