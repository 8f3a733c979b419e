"""The benchmarks' metrics as pure functions: texts and numbers in, numbers out. No files, no model."""
