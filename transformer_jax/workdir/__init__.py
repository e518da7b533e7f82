"""What a run leaves behind: checkpoints with manifests, metrics, the run's card, and its lock.

May use errors, console, storage, config, parallel and model.size. Must not know data, evaluation,
inference or training: they hand it values.
"""
