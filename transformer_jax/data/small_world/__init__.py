"""The embedded small world: a grammar and a lexicon that write Chinese sentences and their English.

It needs nothing else of the project.
"""
