"""What training an experiment needs on a machine that is not here: memory, exchange, time, cost.

May use training and every room below it; must not know sweeps, cloud or the modes. Memory and
exchange are compiled where a compiler is at hand; times are estimates, never checked on a device.
"""
