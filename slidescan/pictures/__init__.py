"""Pictures: overlays of maps, diagrams of metrics, sheets of patches."""
