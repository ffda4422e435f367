"""Kernels in C for training on CPUs in bfloat16, compiled once on the machine that runs them.

    attention.c  -> causal attention over documents of one line, and its backward
    pointwise.c  -> norms, rotations, activation, cross entropy, each in one pass both ways
    library      -> the functions for ctypes, and when they may be used

Where nothing can be compiled, and on other devices, torch's own operations do the work.
"""
