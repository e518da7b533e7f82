"""The same command elsewhere, as a job to submit: for Slurm, SkyPilot, or a Cloud TPU.

May use every room below it, except sweeps; must not know flags or modes: everything here is a
function of values. SkyPilot and Cloud TPU run a copy of the checkout, Slurm the checkout itself.
"""
