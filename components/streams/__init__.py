"""Environments outside the device, as processes without JAX step them."""
