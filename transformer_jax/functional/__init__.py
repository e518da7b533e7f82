"""All mathematics of the Transformer, as pure functions of arrays. Imports jax alone.

Shapes are written in the letters of one glossary: B batch, T target/query length, S source/key
length, D model width (d_model), N heads, H head width (d_key, or d_value for values), F
feed-forward width (d_ff), V vocabulary. Einsum strings use the same letters in lower case.
"""
