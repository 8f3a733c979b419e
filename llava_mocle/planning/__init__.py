"""What a recipe costs before it is started: memory a GPU, operations, bytes sent, hours, and how to start it."""
