"""Speed, beside a peer's: `make bench`."""
