"""Kernels in C for CPUs, compiled once on the machine that runs them.

    (native.build makes a library of the C files, checked before it is used)
    library  -> its functions and structures, for ctypes
    packed   -> weights as panels: projections and embedding of a model
    decoder  -> one call of the library a step, from tokens to logits

Where nothing can be compiled the eager modules of torch do the same work, slower.
"""
