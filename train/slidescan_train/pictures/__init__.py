"""What people would rather look at than read: curves, diagrams and sheets of patches, as PNG."""
