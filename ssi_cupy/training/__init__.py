"""A training: `step.py` reads like the pipeline; the other files make ready what it needs."""
