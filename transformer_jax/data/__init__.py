"""From text to batches: corpora (pairs of strings), tokenizer (pieces), dataset (packed rows)."""
