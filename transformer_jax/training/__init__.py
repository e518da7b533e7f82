"""Training: one step, the loop around it, and a run in its workdir.

`step` and `loop` receive batches and know nothing of where they come from; `prepared` and `run` put
the data, the model, the devices and the workdir together. Operations on many runs are not known
here.
"""
