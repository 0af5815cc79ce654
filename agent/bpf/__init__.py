"""The kernel side of a node: loading the programs, attaching them, their maps. `datapath.py` is the front door."""
