"""llama.cpp as an engine: a program that runs in llama.cpp's own environment, not in ours."""
