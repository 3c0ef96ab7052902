"""Engines run a network: torch is the reference, OpenVINO is faster on a CPU."""
