"""Block formats as files store them, and the quantised tensor as kernels read it."""
