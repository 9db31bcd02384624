"""Gin files as text: their statements, their mistakes, where they are and how values are written; no jax."""
