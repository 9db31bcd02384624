"""Suites: named lists of environments."""
