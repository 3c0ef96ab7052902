"""What people would rather look at than read: maps, diagrams and sheets of patches."""
