"""The CPU engine: the network as an OpenVINO graph."""
