"""The negative-transfer probe: whether datasets pull what they share in one direction."""
