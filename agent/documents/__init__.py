"""Documents and their revisions: pure functions and values, no I/O."""
