"""A page about runs: HTML and Markdown with figures, from what workdirs and sweeps hold.

The room reads workdirs through `workdir` and `sweeps`; it trains and translates nothing.
"""
