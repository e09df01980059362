"""What the mathematics runs on: arrays, devices, memory, precision, Fourier transforms, kernels.

`backend.py` is what an op imports. `cpu/` makes machine code of a loop and shares it out over
threads; `gpu/` makes a launch of the text in `kernels/`, and one CUDA graph of a training step.
"""
