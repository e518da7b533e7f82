"""Sweeps: the points of an experiment, each trained by a child process, as trials of a study.

May use planning and every room below it; must not know cloud, report or the modes. A launcher
imports no jax: its children do, each with a device of its own.
"""
