"""Answers, scores and intervals: everything that happens after a model has been trained."""
