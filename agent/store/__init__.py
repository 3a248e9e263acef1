"""The store: one SQLite file per database, and the folder that they lie in."""
