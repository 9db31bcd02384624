"""A run's folder, and what a run writes, shows and listens to while it goes on."""
