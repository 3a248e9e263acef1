"""Puts the reference firmware onto boards, by the programs that others maintain for that."""
