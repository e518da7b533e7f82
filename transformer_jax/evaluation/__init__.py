"""How good translations are: BLEU, chrF, degenerate output, and the comparison of two workdirs.

May use errors, console, storage and config. It takes lists of sentences or reads evaluation/ of a
workdir, and must not know how the translations were made: no inference, no training.
"""
