"""What runs a network: torch is the reference, OpenVINO the fast engine on a CPU."""
