"""Convolutions that compute what Gluon's do, and sooner."""

from __future__ import annotations

from typing import Any, Tuple

from robostig.backend import CHANNEL_BLOCK, mx

__all__ = ["AlignedConv2D", "ScaledConv2D"]


class ScaledConv2D(mx.gluon.nn.Conv2D):
    """A convolution of ``scale * x + offset`` that leaves its input alone: a few weights are scaled in place of frames.

    Its parameters and their gradients are those of :class:`mxnet.gluon.nn.Conv2D` after the scaling.

    Parameters
    ----------
    *args, **kwargs
        As :class:`mxnet.gluon.nn.Conv2D`'s.
    scale, offset
        Of the input; default 1 and 0. With padding, whose zeros come after the scaling, there can be no offset.

    Inputs
        - **data**: (N, in_channels, H, W).

    Outputs
        - **out**: (N, channels, H', W').

    Raises
    ------
    ValueError
        If there are padding and an offset.
    """

    def __init__(self, *args: Any, scale: float = 1.0, offset: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if offset and any(self._kwargs["pad"]):
            raise ValueError(f"offset={offset} with padding {self._kwargs['pad']}: shift the input before this layer")
        self._scale, self._offset = scale, offset

    def scale_parameters(self, F: Any, weight: Any, bias: Any) -> Tuple[Any, Any]:
        """Return weight and bias of the convolution of ``x`` that is the one of ``scale * x + offset``."""
        if self._offset:
            bias = bias + self._offset * F.sum(weight, axis=(1, 2, 3))
        return (weight * self._scale if self._scale != 1.0 else weight), bias

    def hybrid_forward(self, F: Any, x: Any, weight: Any, bias: Any) -> Any:
        """Scale the parameters, and convolve."""
        return super().hybrid_forward(F, x, *self.scale_parameters(F, weight, bias))


class AlignedConv2D(ScaledConv2D):
    """A convolution that computes with its channels rounded up, by channels of zeros.

    Its parameters have the shapes of :class:`mxnet.gluon.nn.Conv2D` and so do their gradients; only the output has
    more channels, which stay zero through any activation that leaves zero alone, and which the next layer of this
    kind ignores.

    Parameters
    ----------
    channels, kernel_size, strides
        As :class:`mxnet.gluon.nn.Conv2D`'s.
    scale, offset
        As :class:`ScaledConv2D`'s.
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
        self,
        channels: int,
        kernel_size: int,
        strides: int = 1,
        *,
        in_channels: int,
        in_padding: int = 0,
        scale: float = 1.0,
        offset: float = 0.0,
    ) -> None:
        super().__init__(channels, kernel_size, strides, in_channels=in_channels, scale=scale, offset=offset)
        self.padding = -channels % CHANNEL_BLOCK
        self.in_padding = in_padding
        self._kwargs["num_filter"] = channels + self.padding

    def hybrid_forward(self, F: Any, x: Any, weight: Any, bias: Any) -> Any:
        """Pad the parameters, which costs nothing beside the convolution, and convolve."""
        weight, bias = self.scale_parameters(F, weight, bias)
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
