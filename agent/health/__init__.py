"""Whether this node reaches the others: its health endpoint, what answers probes, what sends them, what they tell."""
