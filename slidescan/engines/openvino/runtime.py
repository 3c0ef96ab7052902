"""OpenVINO with its telemetry off. All other modules import OpenVINO from here."""

from __future__ import annotations

import sys

# openvino reports its import over the network through this package. If the package cannot be
# imported, openvino uses a stub. No data may leave a hospital.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
import openvino as ov  # noqa: E402  (the line above must come first)
from openvino import opset15 as ops  # noqa: E402

__all__ = ["ops", "ov"]
