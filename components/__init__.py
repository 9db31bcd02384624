"""Everything a gin file can name; `components.everything` registers it, importing this package alone does nothing.

So that processes that only step environments need not load JAX.
"""
