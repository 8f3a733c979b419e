"""The figures of one run, and what its folder says of its routing."""
