"""The report on runs: one HTML page without anything from elsewhere."""
