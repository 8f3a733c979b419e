"""Methods against each other on the same data: a declared grid of runs, carried out and judged."""
