"""OpenVINO with its telemetry off: whatever needs OpenVINO takes it from here."""

from __future__ import annotations

import sys

# openvino reports its import to the network through this package; where it cannot be imported,
# openvino falls back to a stub of its own. Nothing may leave a hospital.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
import openvino as ov  # noqa: E402  (the line above must come first)
from openvino import opset15 as ops  # noqa: E402

__all__ = ["ops", "ov"]
