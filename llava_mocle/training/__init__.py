"""Training: a recipe's model and data, the loop, checkpoints, and the processes that run it."""
