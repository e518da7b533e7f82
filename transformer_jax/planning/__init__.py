"""What training an experiment needs on another machine: memory, exchange between chips, time, cost.

May use training and every room below it; must not know sweeps, cloud or the modes. Memory and
exchange come from the compiler, if it is installed; times are estimates, never checked on a device.
"""
