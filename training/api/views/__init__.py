"""REST over training, a module a noun."""
