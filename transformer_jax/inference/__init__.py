"""From a trained workdir to text: the searches, the translator, the scorer, and `load`.

`search` knows nothing of the model, only a function that gives the next logits. The room uses the
model, the data's tokenizers and the workdir's checkpoints; it must not know how a model is trained.
"""
