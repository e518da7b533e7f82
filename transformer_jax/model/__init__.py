"""The Transformer as Flax modules, which own parameters and call `functional`; and its size.

It uses the options of the model alone. It must not know text, devices or training.
"""
