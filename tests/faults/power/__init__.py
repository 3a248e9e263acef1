"""Power cuts: what a program does to its files is recorded, and the disk is built as a power cut at
any moment would have left it."""
