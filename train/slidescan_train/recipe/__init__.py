"""The recipe of a training: settings, learning-rate schedule and loss."""
