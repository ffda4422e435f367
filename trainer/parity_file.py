"""The name of the file in which a result says what its model makes of some prompts."""

FILE = "parity.json"
