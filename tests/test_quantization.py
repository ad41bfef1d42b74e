from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from robostig.artifact import load_artifact, save_artifact
from robostig.backend import mx
from robostig.models import get_model, get_spec
from robostig.pilot import Pilot
from robostig.quantization import LARGE, _find_obstacle, quantize_dense

needs_vnni = pytest.mark.skipif(bool(_find_obstacle()), reason=f"int8 cannot be had: {_find_obstacle()}")
INPUTS, UNITS = 2048, LARGE // 2048
GENERATOR = np.random.default_rng(0)
SCALES = GENERATOR.uniform(0.01, 10.0, (UNITS, 1))  # no two units' weights are of the same size
WEIGHTS = GENERATOR.normal(size=(UNITS, INPUTS)) * SCALES
BIAS = GENERATOR.normal(size=UNITS)
ROWS = GENERATOR.normal(size=(5, INPUTS)) * [[1.0], [1e-4], [1.0], [1e4], [1.0]]


def make_answer(*, has_bias: bool = True):
    """Return what a quantised dense layer answers, as a function."""
    dense = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=UNITS, no_bias=not has_bias, name="dense")
    parameters = {"dense_weight": mx.nd.array(WEIGHTS), **({"dense_bias": mx.nd.array(BIAS)} if has_bias else {})}
    net = mx.gluon.SymbolBlock(quantize_dense(dense, parameters), mx.sym.var("data"))
    net.collect_params().load_dict(parameters, ctx=mx.cpu())
    net.hybridize(static_alloc=True, static_shape=True)
    return lambda rows: net(mx.nd.array(rows)).asnumpy()


@needs_vnni
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_product_is_right_to_a_hundredth_whatever_the_scale_of_rows_and_units(has_bias):
    expected = ROWS @ WEIGHTS.T
    apart = make_answer(has_bias=has_bias)(ROWS) - expected - BIAS * has_bias
    relative = np.abs(apart) / (np.linalg.norm(ROWS, axis=1)[:, None] * np.linalg.norm(WEIGHTS, axis=1))
    assert 0 < relative.max() < 1e-3  # of what the product of such vectors can be; some thirtieth of that is usual
    assert np.corrcoef((expected / SCALES.T).ravel(), ((apart + expected) / SCALES.T).ravel())[0, 1] > 0.999


@needs_vnni
def test_no_row_depends_on_the_others_of_its_batch():
    answer = make_answer()
    together = answer(ROWS)
    for count in (1, 3, 5, 1):
        np.testing.assert_array_equal(answer(ROWS[:count]), together[:count])


@needs_vnni
def test_a_row_of_zeros_gives_the_bias_and_nan_stays_nan():
    rows = ROWS.copy()
    rows[1], rows[2, 7] = 0.0, np.nan
    answers = make_answer()(rows)
    np.testing.assert_allclose(answers[1], BIAS, rtol=1e-6)
    assert np.isnan(answers[2]).all() and np.isfinite(answers[[0, 1, 3, 4]]).all()


@needs_vnni
def test_what_is_small_stays_as_it_is():
    first = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=UNITS, name="large")
    second = mx.sym.FullyConnected(first, num_hidden=4, name="small")
    weights = {"large_weight": mx.nd.array(WEIGHTS), "small_weight": mx.nd.ones((4, UNITS))}
    operators = [node["op"] for node in json.loads(quantize_dense(second, weights).tojson())["nodes"]]
    assert operators.count("_sg_mkldnn_fully_connected") == 1 and operators[-1] == "FullyConnected"


@needs_vnni
def test_a_network_without_large_dense_layers_is_refused():
    assert get_spec("nvidia").parameters < LARGE
    with pytest.raises(ValueError, match="the largest dense layer has 115,200 weights; 8 bits pay from 1,048,576 on"):
        load_artifact("nvidia", dtype="int8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int4"}, "dtype is 'int4'; it is one of float32, int8"),
        ({"dtype": "int8", "context": mx.gpu(0)}, r"int8 is for CPUs, and this is gpu\(0\)"),
    ],
)
def test_what_cannot_be_had_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_artifact("nvidia", **options)


@needs_vnni
def test_a_pilot_of_8_bits_steers_as_the_one_of_32(tmp_path):
    net, spec = get_model("comma"), get_spec("comma").input
    mx.random.seed(0)
    net.initialize(mx.init.Xavier())
    folder = save_artifact(tmp_path, net, spec, {"model": "comma"})
    frames = GENERATOR.integers(0, 256, (3, *spec.shape), np.uint8)
    exact = Pilot.load(folder).predict(frames)
    assert np.ptp(exact) > 0
    quantized = Pilot.load(folder, dtype="int8")
    assert 0 < np.abs(quantized.predict(frames) - exact).max() < 0.05 * np.abs(exact).max()
    np.testing.assert_allclose([quantized.steer(frame) for frame in frames], quantized.predict(frames), atol=1e-6)


@pytest.mark.skipif(not mx.runtime.Features().is_enabled("MKLDNN"), reason="this MXNet was built without oneDNN")
def test_a_processor_whose_sums_overflow_is_refused():
    code = "from robostig.artifact import load_artifact; load_artifact('nvidia', dtype='int8')"
    environment = {**os.environ, "DNNL_MAX_CPU_ISA": "AVX2"}  # oneDNN's own way to leave instructions out
    ended = subprocess.run([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, check=False)
    assert b"ValueError: int8 cannot be had: this processor has no VNNI" in ended.stderr
