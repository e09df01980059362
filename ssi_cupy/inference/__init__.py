"""A trained network applied to an image, `predict.py`, by tiles where it is large, `tiling.py`."""
