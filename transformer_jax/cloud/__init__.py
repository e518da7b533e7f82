"""The same command elsewhere: a Slurm job, a SkyPilot task, or a run on a Cloud TPU VM.

May use every room below it, except sweeps; must not know flags or modes: everything here is a
function of values. SkyPilot and Cloud TPU run a copy of the checkout, Slurm the checkout itself.
"""
