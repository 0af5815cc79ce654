"""Pure planning of the agent: values in, values out. No I/O, no clock, no randomness."""
