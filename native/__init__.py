"""C that is compiled on the machine that runs it, for engines and trainer alike.

build      -> a folder of C files becomes a library in the user's cache folder, checked first
vectors.h  -> sixteen lanes at a time, bfloat16 in its halves
"""
