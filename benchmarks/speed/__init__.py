"""How fast slidescan scans, predicts and trains, and how much memory that takes."""
