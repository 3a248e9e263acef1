"""What can be replicated with: one protocol, `Peer`, and its implementations."""
