"""CouchDB's HTTP API over the stores of this process."""
