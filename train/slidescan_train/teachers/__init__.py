"""Where a training starts from and whom it learns from: teachers and initial weights."""
