"""From a plain Python loop to machine code on all cores: Numba, vector code, worker threads."""
