"""Parts of meta-networks: features, cores and targets."""
