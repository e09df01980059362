"""Files: TIFFs, models and checkpoints, each written whole or not at all."""
