"""From text to batches: corpora, tokenizers, tokens, packing, and `batch(step)`.

Everything after the tokens is a pure function of lengths, seed and step. The room must not know the
model or the loop.
"""
