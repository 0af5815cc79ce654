"""The datapath's proof: a model in plain Python and the kernel get the same packets and must say the same."""
