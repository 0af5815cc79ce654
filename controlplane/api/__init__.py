"""The gRPC services over one replica; each file is one service of controlplane.proto or a topic that they share."""
