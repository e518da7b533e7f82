"""The page that shows what a model computes for one sentence: its files, its answers, its server.

The record comes from `inference`; this room writes it as JSON. It may use what serves a trained
model, and must not know how one is trained.
"""
