"""Cases, runners and peers: what `soberano bench` runs."""
