"""comma.ai's steering model.

References
----------
comma.ai, github.com/commaai/research, ``train_steering_model.py``, 2016. It was published beside, but is not part of,
Santana and Hotz, "Learning a Driving Simulator", 2016, arXiv:1608.01230, which is about the generative simulator.
"""

from __future__ import annotations

from typing import Any

from robostig.backend import mx
from robostig.convolution import ScaledConv2D
from robostig.models.registry import register
from robostig.preprocessing import InputSpec

nn = mx.gluon.nn

__all__ = ["CommaNet"]


@register(
    "comma",
    input=InputSpec(160, 320, color_space="rgb"),
    parameters=6_621_809,
    reference="commaai/research, train_steering_model.py, 2016 (published beside arXiv:1608.01230)",
)
class CommaNet(mx.gluon.HybridBlock):
    """comma.ai's steering model: three wide-strided convolutions and one large dense layer on the whole RGB frame.

    Inputs
        - **frames**: (N, 3, 160, 320) float32, RGB, 0..255.

    Outputs
        - **steering**: (N, 1) float32, 1.0 = full lock to the right; linear, so not bounded.

    Notes
    -----
    Layers, activations, dropout and normalisation are the script's. Two departures: its "same" padding is 2 pixels
    on each side here, which gives the same shapes; and its labels were tenths of a degree at the steering wheel, here
    they are shares of full lock.
    """

    def __init__(self) -> None:
        super().__init__(prefix="comma_")  # a fixed prefix: names do not depend on what was created before
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="features_")
            with self.features.name_scope():
                self.features.add(
                    ScaledConv2D(16, 8, 4, padding=2, scale=1 / 127.5),  # 160x320 -> 40x80
                    nn.ELU(),
                    nn.Conv2D(32, 5, 2, padding=2),  # -> 20x40
                    nn.ELU(),
                    nn.Conv2D(64, 5, 2, padding=2),  # -> 10x20
                )
            self.output = nn.HybridSequential(prefix="output_")
            with self.output.name_scope():
                self.output.add(
                    nn.Flatten(),
                    nn.Dropout(0.2),
                    nn.ELU(),
                    nn.Dense(512),
                    nn.Dropout(0.5),
                    nn.ELU(),
                    nn.Dense(1, weight_initializer=mx.init.Normal(0.001)),
                )

    def hybrid_forward(self, F: Any, frames: Any) -> Any:
        """Normalise, to x / 127.5 - 1 together with the first layer, look, steer."""
        return self.output(self.features(frames - 127.5))
