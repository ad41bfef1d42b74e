"""Backbones from GluonCV: classifiers of ImageNet whose convolutional part looks at the road, with a head that steers.

For these, ``get_model(name, pretrained=True)`` fetches GluonCV's ImageNet weights of that part; the head is always new.

References
----------
Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, arXiv:1801.04381.
Howard et al., "Searching for MobileNetV3", 2019, arXiv:1905.02244.
He et al., "Deep Residual Learning for Image Recognition", 2016, arXiv:1512.03385.
Guo et al., "GluonCV and GluonNLP: Deep Learning in Computer Vision and Natural Language Processing", 2020,
arXiv:1907.04433.
"""

from __future__ import annotations

import functools
from typing import Any

from robostig.backend import mx
from robostig.imagenet import MEAN, STD, build_features, load_features
from robostig.models.registry import register
from robostig.preprocessing import InputSpec

nn = mx.gluon.nn

__all__ = ["BackboneNet", "build_mobilenet_v2", "build_mobilenet_v3_small", "build_resnet18"]

# The rows that nvidia's network sees. Both sides are multiples of 32, by which the backbones divide them.
_INPUT = InputSpec(64, 192, crop_top=60 / 160, crop_bottom=25 / 160, color_space="rgb")


class BackboneNet(mx.gluon.HybridBlock):
    """A classifier's layers up to its global pooling, and a head that steers.

    Parameters
    ----------
    name
        The name that the model is registered by.
    classifier
        GluonCV's name of the classifier.
    dropout
        Share of the head's features that is dropped in training, 0 to 1.

    Inputs
        - **frames**: (N, 3, 64, 192) float32, RGB, 0..255.

    Outputs
        - **steering**: (N, 1) float32, 1.0 = full lock to the right; linear, so not bounded.

    Notes
    -----
    Frames are normalised by ImageNet's mean and standard deviation, as the backbone's weights expect.

    A classifier averages its last maps over all positions, since it does not matter where a cat is. Where the road is
    does matter, so this head keeps the position: it squeezes the 2x6 map to 32 channels and reads all of it by two
    dense layers. The last one begins near zero, else its first answers would be far off the wheel's range.
    """

    def __init__(self, name: str, classifier: str, dropout: float) -> None:
        super().__init__(prefix=f"{name}_")  # a fixed prefix: names do not depend on what was created before
        self.classifier = classifier
        with self.name_scope():
            self.features = build_features(classifier)  # 64x192 -> 2x6
            self.output = nn.HybridSequential(prefix="output_")
            with self.output.name_scope():
                self.output.add(
                    nn.Conv2D(32, 1),
                    nn.ELU(),
                    nn.Flatten(),
                    nn.Dropout(dropout),
                    nn.Dense(64),
                    nn.ELU(),
                    nn.Dense(1, weight_initializer=mx.init.Normal(0.001)),
                )

    def hybrid_forward(self, F: Any, frames: Any) -> Any:
        """Normalise, look, steer."""
        colors = F.split(frames, num_outputs=3, axis=1)
        frames = F.concat(*[(color - mean) / std for color, mean, std in zip(colors, MEAN, STD)], dim=1)
        return self.output(self.features(frames))


def load_imagenet(net: BackboneNet) -> None:
    """Fetch ImageNet weights for the backbone, and initialise the head."""
    load_features(net.features, net.classifier)
    net.output.initialize(mx.init.Xavier())


_register = functools.partial(register, input=_INPUT, pretrained=load_imagenet, pretrained_on="ImageNet")


@_register(
    "mobilenet_v2",
    parameters=750_145,
    reference="Sandler et al. 2018, arXiv:1801.04381; GluonCV's mobilenetv2_0.5",
)
def build_mobilenet_v2(dropout: float = 0.2) -> BackboneNet:
    """MobileNetV2 of half the width, for computers like the Raspberry Pi.

    It has 750,145 parameters, 684,448 of them in the backbone, and takes 22.0 million multiply-accumulates a frame.
    """
    return BackboneNet("mobilenet_v2", "mobilenetv2_0.5", dropout)


@_register(
    "mobilenet_v3_small",
    parameters=970_177,
    reference="Howard et al. 2019, arXiv:1905.02244, table 2; GluonCV's mobilenetv3_small",
)
def build_mobilenet_v3_small(dropout: float = 0.2) -> BackboneNet:
    """MobileNetV3-Small, for computers like the Raspberry Pi.

    It has 970,177 parameters, 927,008 of them in the backbone, and takes 14.0 million multiply-accumulates a frame.
    """
    return BackboneNet("mobilenet_v3_small", "mobilenetv3_small", dropout)


@_register(
    "resnet18",
    parameters=11_217_633,
    reference="He et al. 2016, arXiv:1512.03385, table 1; GluonCV's resnet18_v1",
)
def build_resnet18(dropout: float = 0.2) -> BackboneNet:
    """ResNet-18, for computers with some power to spare.

    It has 11,217,633 parameters, 11,176,512 of them in the backbone, and takes 444.4 million multiply-accumulates a
    frame. Of GluonCV's versions this is the paper's; v1b differs from it in deeper networks alone, v2 in the order of
    layers.
    """
    return BackboneNet("resnet18", "resnet18_v1", dropout)
