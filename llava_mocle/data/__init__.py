"""Rows, prompts, images: everything between LLaVA's files and a batch."""
