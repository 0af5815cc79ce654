"""What policies mean, written from the words of the Kubernetes API reference, the Network Policy API and Cilium's
documentation alone; plain and slow, for tests to hold the product against. It shares no code with the product."""
