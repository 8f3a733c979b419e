"""How each kind of model is put together, and what it makes of images and text. `registry.py` finds a model's kind."""
