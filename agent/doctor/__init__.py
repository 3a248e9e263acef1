"""Looks for what commonly goes wrong on a gateway, and says how to mend it. Changes nothing."""
