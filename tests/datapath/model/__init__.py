"""What the datapath does to a packet, in plain Python, written from what the docs and the headers' comments say.

One file per topic, each over `state.py` (what a node knows, what comes out):
  packet.py       reading headers
  neighbors.py    ARP and neighbor discovery on a pod's link
  policy.py       one side's word: tiers and rows
  connections.py  connections, ICMP errors about them, consent, audit mode
  mtu.py          what does not fit its way
  masquerade.py   the node's address for the pod's, by way of rewriting.py
  programs.py     the four programs: who may speak, where a packet goes

A new rule of the datapath is written here from its words in the docs before it is looked up in C; a step that a program
takes is one more call in programs.py. Slow and obvious is right; sharing code with `kilim.agent` or `kilim.model`
beyond addresses and MACs is wrong, as both would then err together.
"""
