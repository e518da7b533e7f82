"""Reports of runs and sweeps, as one HTML file and as Markdown with figures.

May use sweeps, evaluation, workdir and config. It reads what runs recorded, and must not know how
they are trained.
"""
