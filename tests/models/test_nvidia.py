from __future__ import annotations

import numpy as np
import pytest

from robostig.backend import mx
from robostig.models import get_model


@pytest.mark.parametrize(("rows", "first_unseen"), [(66, 61), (160, 149)])
def test_no_more_rows_are_cut_off_than_the_steps_of_the_layers_leave_over(rows, first_unseen):
    """Arrays may have more rows than the model's own input: all of them count, but for a step of its layers."""
    net = get_model("nvidia")
    net.initialize(mx.init.Xavier())
    frames = mx.nd.random.uniform(0, 255, (1, 3, rows, 200))
    net(frames)
    frames.attach_grad()
    with mx.autograd.record():
        steering = net(frames)
    steering.backward()
    is_seen = np.abs(frames.grad.asnumpy()).sum(axis=(0, 1, 3)) > 0
    np.testing.assert_array_equal(is_seen, np.arange(rows) < first_unseen)
