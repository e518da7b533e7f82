"""What a run leaves behind: checkpoints with manifests, metrics, the run's card, and its lock.

May use errors, console, storage, config and parallel. Must not know model, data, evaluation,
inference or training: they hand it values.
"""
