"""The formats of a bundle; free of torch, as the command line lists them."""

# Format -> the engine that reads it.
ENGINES = {"vllm": "vllm", "sglang": "sglang", "gguf": "llamacpp", "merged": "vllm"}
FORMATS = tuple(ENGINES)
