"""Which devices and processes share the work: the only room that knows that they exist.

May use the ground and config; must not know what a step computes, nor who writes what.
"""
