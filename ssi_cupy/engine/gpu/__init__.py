"""From the CUDA text in `kernels/` to a launch, a step as a CUDA graph. Cupy is here alone."""
