"""Models on disk: weights (safetensors) and their card (JSON)."""
