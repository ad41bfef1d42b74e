"""What a network looks at, laid over the camera's frame: colour where it looks, and dark what it never gets to see."""

from __future__ import annotations

from typing import Tuple

import cv2
import numpy as np

from robostig.preprocessing import InputSpec

__all__ = ["highlight", "place_mask"]

COLOR = (255, 50, 145)  # RGB; nothing beside a road is pink
# Shares of the pixels that a network sees: no colour, and all of it, on so many. A mask's values mean something only
# beside each other; so every model gets as much colour as any other, and where it goes is the difference.
NONE, FULL = 0.8, 0.98
COVER = 0.9  # of full colour; the road stays visible underneath
FADE = 0.6  # of the frame's own colours
UNSEEN = 0.4  # brightness of what is cut away


def place_mask(mask: np.ndarray, spec: InputSpec, size: Tuple[int, int]) -> np.ndarray:
    """Return a mask of the size of the camera's frame, 0 where the network does not look.

    Parameters
    ----------
    mask
        (spec.height, spec.width) float32, 0..1, of one frame.
    spec
        The network's input: which part of a frame it is.
    size
        Height and width of the frame.
    """
    height, width = size
    top, bottom = spec.choose_rows(height)
    placed = np.zeros((height, width), np.float32)
    placed[top:bottom] = cv2.resize(mask, (width, bottom - top), interpolation=cv2.INTER_LINEAR)
    return placed


def highlight(frame: np.ndarray, mask: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Colour the fifth of the pixels at which a network looks most, and darken those that it does not see.

    Parameters
    ----------
    frame
        (H, W, 3) uint8 RGB, as the camera gave it.
    mask
        (spec.height, spec.width) float32, 0..1, as :func:`robostig.explanation.explain` returns it.
    spec
        The network's input.

    Returns
    -------
    numpy.ndarray
        (H, W, 3) uint8 RGB. The squares that strides leave in a mask are smoothed, for the eye.
    """
    height, width = frame.shape[:2]
    top, bottom = spec.choose_rows(height)
    pixel = max((bottom - top) / spec.height, width / spec.width)  # of the network's input, in those of the frame
    strength = cv2.GaussianBlur(place_mask(mask, spec, (height, width))[top:bottom], (0, 0), 1.2 * pixel)
    low, high = np.quantile(strength, [NONE, FULL])
    cover = np.zeros((height, width, 1), np.float32)
    cover[top:bottom, :, 0] = COVER * np.clip((strength - low) / max(high - low, 1e-9), 0.0, 1.0)
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    colored = np.array(COLOR, np.float32) * (0.65 + 0.5 / 255.0 * grey)
    picture = (1.0 - cover) * (frame + FADE * (grey - frame)) + cover * colored
    picture[:top] *= UNSEEN
    picture[bottom:] *= UNSEEN
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
