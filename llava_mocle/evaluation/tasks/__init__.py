"""The benchmarks, one small file each; `evaluation/registry.py` names them all."""
