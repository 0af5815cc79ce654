"""The datapath on the real kernel: root and BPF are needed."""
