"""What exists and what it means. Pure: no I/O, no clock, no randomness; imports itself and the messages."""
