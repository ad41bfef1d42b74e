"""A convolution that computes what Gluon's does, and sooner."""

from __future__ import annotations

from typing import Any

from robostig.backend import CHANNEL_BLOCK, mx

__all__ = ["AlignedConv2D"]


class AlignedConv2D(mx.gluon.nn.Conv2D):
    """A convolution that computes with its channels rounded up, by channels of zeros.

    Its parameters have the shapes of :class:`mxnet.gluon.nn.Conv2D` and so do their gradients; only the output has
    more channels, which stay zero through any activation that leaves zero alone, and which the next layer of this
    kind ignores.

    Parameters
    ----------
    channels, kernel_size, strides
        As :class:`mxnet.gluon.nn.Conv2D`'s.
    in_channels
        Channels of the input.
    in_padding
        Channels of zeros that the input has after those, default 0: the :attr:`padding` of the layer before.

    Inputs
        - **data**: (N, ``in_channels + in_padding``, H, W).

    Outputs
        - **out**: (N, ``channels + padding``, H', W').
    """

    def __init__(
        self, channels: int, kernel_size: int, strides: int = 1, *, in_channels: int, in_padding: int = 0
    ) -> None:
        super().__init__(channels, kernel_size, strides, in_channels=in_channels)
        self.padding = -channels % CHANNEL_BLOCK
        self.in_padding = in_padding
        self._kwargs["num_filter"] = channels + self.padding

    def hybrid_forward(self, F: Any, x: Any, weight: Any, bias: Any) -> Any:
        """Pad the parameters, which costs nothing beside the convolution, and convolve."""
        channels, in_channels, *kernel = self.weight.shape
        # Pad leaves the first two axes of four alone. F.reshape copies, where an array's own method would give a view,
        # which MXNet 1.9 cannot lay out for oneDNN.
        weight = F.reshape(weight, shape=(1, channels, in_channels, -1))
        weight = F.reshape(_pad(F, weight, axis=2, count=self.in_padding), shape=(1, 1, channels, -1))
        weight = _pad(F, weight, axis=2, count=self.padding)
        weight = F.reshape(weight, shape=(channels + self.padding, in_channels + self.in_padding, *kernel))
        bias = _pad(F, F.reshape(bias, shape=(1, 1, 1, channels)), axis=3, count=self.padding)
        return F.Convolution(x, weight, F.reshape(bias, shape=-1), **self._kwargs)


def _pad(F: Any, values: Any, axis: int, count: int) -> Any:
    """Append zeros along the third or fourth axis of four."""
    if not count:
        return values
    widths = [0] * 8
    widths[2 * axis + 1] = count
    return F.pad(values, mode="constant", constant_value=0, pad_width=tuple(widths))
