"""Figures and reports: one file each, every picture with its data as CSV beside it."""
