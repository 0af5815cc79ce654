"""Commands to events or refusals. PURE: no I/O, no clock, no randomness; the shell around it is `writer.py`."""
