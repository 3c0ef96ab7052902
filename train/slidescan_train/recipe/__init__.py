"""What a training is: its settings, learning-rate schedule and loss."""
