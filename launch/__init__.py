"""Grids of runs, here and on TPUs, through XManager; nothing in it imports jax."""
