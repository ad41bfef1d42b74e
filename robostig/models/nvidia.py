"""NVIDIA's PilotNet.

References
----------
Bojarski et al., "End to End Learning for Self-Driving Cars", 2016, arXiv:1604.07316, figure 4.
"""

from __future__ import annotations

import functools
from typing import Any

from robostig.artifact import WEIGHTS, load_parameters
from robostig.backend import mx
from robostig.convolution import AlignedConv2D
from robostig.models.registry import register
from robostig.preprocessing import InputSpec

nn = mx.gluon.nn

__all__ = ["PilotNet"]

# Of 66 rows: steps of two rows, without padding, leave the lowest five over, and nothing depends on them. The layers'
# sizes without these are 29x98, 13x47, 5x22, 3x20 and 1x18: a fifteenth less to compute. Counted from below, since it
# can be trained on arrays of more rows.
ROWS_LEFT_OVER = 5


@register(
    "nvidia",
    # Rows 60 to 135 of the simulator's 160: without sky and bonnet, as the pipeline's first module cuts.
    input=InputSpec(66, 200, crop_top=60 / 160, crop_bottom=25 / 160, color_space="yuv"),
    parameters=252_219,
    reference="Bojarski et al. 2016, arXiv:1604.07316, figure 4",
    pretrained=functools.partial(load_parameters, folder=WEIGHTS / "nvidia"),
    pretrained_on="the built-in track",
)
class PilotNet(mx.gluon.HybridBlock):
    """NVIDIA's PilotNet: five convolutions and four dense layers on a YUV picture.

    Parameters
    ----------
    dropout
        Share of the flattened features that is dropped in training, 0 to 1, default 0.2.

    Inputs
        - **frames**: (N, 3, 66, 200) float32, YUV, 0..255.

    Outputs
        - **steering**: (N, 1) float32, 1.0 = full lock to the right; linear, so not bounded.

    Notes
    -----
    Layers and sizes are the figure's. There is no layer of 1164 units: the figure prints the flattened size there
    (1152 = 64 x 1 x 18). The paper names no activation, no dropout and no constants of the normalisation layer;
    here they are ELU, which the pipelines derived from the paper settled on, dropout before the dense layers, and
    ``x / 127.5 - 1``.
    """

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__(prefix="nvidia_")  # a fixed prefix: names do not depend on what was created before
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="features_")
            with self.features.name_scope():
                in_channels, in_padding = 3, 0
                for channels, kernel, stride in ((24, 5, 2), (36, 5, 2), (48, 5, 2), (64, 3, 1), (64, 3, 1)):
                    # The first one normalises: x / 127.5 - 1.
                    scale, offset = (1 / 127.5, -1.0) if in_channels == 3 else (1.0, 0.0)
                    layer = AlignedConv2D(
                        channels,
                        kernel,
                        stride,
                        in_channels=in_channels,
                        in_padding=in_padding,
                        scale=scale,
                        offset=offset,
                    )
                    self.features.add(layer, nn.ELU())
                    in_channels, in_padding = channels, layer.padding
            # 66x200 -> 31x98 -> 14x47 -> 5x22 -> 3x20 -> 1x18
            self.output = nn.HybridSequential(prefix="output_")
            with self.output.name_scope():
                self.output.add(nn.Flatten(), nn.Dropout(dropout))
                for units in (100, 50, 10):
                    self.output.add(nn.Dense(units), nn.ELU())
                self.output.add(nn.Dense(1))

    def hybrid_forward(self, F: Any, frames: Any) -> Any:
        """Look, steer."""
        return self.output(self.features(F.slice_axis(frames, axis=2, begin=0, end=-ROWS_LEFT_OVER)))
