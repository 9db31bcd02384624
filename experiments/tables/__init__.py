"""The papers' tables: how each is defined, filled with runs, and written. Nothing here loads JAX."""
