"""Links, addresses, routes and neighbours, in this node's namespace and in those of its pods."""
