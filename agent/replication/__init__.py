"""Replication between any two peers: the algorithm, its checkpoints, and what keeps it going."""
