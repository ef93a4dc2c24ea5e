r"""Triton kernels, imported only where CUDA or Triton's interpreter is at hand."""
