"""LeNet, after LeCun et al. 1998, "Gradient-based learning applied to document recognition", section II.B.

This is the variant with ReLU, max-pooling, and 16 and 32 filters that is common for small colour images today.
"""

from torch import Tensor, nn

from models.resnet_config import lenet_form


class LeNet(nn.Module):
    """Two 5×5 convolutions, each followed by 2×2 max-pooling, then three fully connected layers.

    Args:
        in_channels: channels of the images.
        num_classes: number of outputs.
        image_size: height and width of the (square) images in pixels, at least 16.

    Raises:
        ValueError: the images are too small for two convolutions and two poolings.
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 10, image_size: int = 32):
        super().__init__()
        map_size = lenet_form(image_size)
        self.conv1 = nn.Conv2d(in_channels, 16, kernel_size=5)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(16, 32, kernel_size=5)
        self.pool2 = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(32 * map_size * map_size, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)
        self.relu = nn.ReLU(inplace=True)

    @property
    def head(self) -> nn.Linear:
        """The classifier: the last layer, with the features as input."""
        return self.fc3

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, image_size, image_size)`` float → logits ``(N, num_classes)``."""
        #                                          at 32 pixels: (N, C, 32, 32)
        # ReLU and max-pooling commute; after pooling, ReLU has a quarter of the work.
        x = self.relu(self.pool1(self.conv1(x)))  #              (N, 16, 14, 14)
        x = self.relu(self.pool2(self.conv2(x)))  #              (N, 32, 5, 5)
        x = x.flatten(1)  #                                      (N, 800)
        x = self.relu(self.fc1(x))  #                            (N, 120)
        x = self.relu(self.fc2(x))  #                            (N, 84)
        return self.fc3(x)
