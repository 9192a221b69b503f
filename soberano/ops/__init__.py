"""Ops. norm.py holds a meaning, norm_jax.py and norm_cupy.py kernels of the same names, norm.cc and norm.cu sources."""
