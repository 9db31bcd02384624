"""Environments outside the device: pools of streams in worker processes, and a step of an experiment that has some."""
