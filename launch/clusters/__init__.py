"""Clusters that grids are launched on, as ml_collections configs: copy one, or replace settings on the command line."""
