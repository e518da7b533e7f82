"""What a model computes for one sentence, for a page that shows it.

The record comes from `inference`; this room writes it as JSON. It may use what serves a trained
model, and must not know how one is trained.
"""
