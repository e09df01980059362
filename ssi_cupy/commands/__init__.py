"""``python -m ssi_cupy``: the command line, and what only its commands do."""
