"""The CNI plugin and the server in the agent that does its work. Imports nothing: the plugin starts for every pod."""
