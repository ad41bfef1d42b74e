"""Trained networks for programs without MXNet: one file in the ONNX format, which many programs run.

>>> from robostig.export import export_onnx
>>> print(export_onnx("out/nvidia", "nvidia.onnx").snippet)        # doctest: +SKIP
"""

try:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
except ImportError as error:
    raise ImportError(f'{error.name} is needed to export, and not installed: pip install "robostig[onnx]"') from error

from robostig.export.file import OPSET, Export, export_onnx
from robostig.export.verification import TOLERANCE, Agreement

__all__ = ["OPSET", "TOLERANCE", "Agreement", "Export", "export_onnx"]
