"""Training: recipes, the trainer, checkpoints. Import the files directly; `arguments` stays free of torch."""
