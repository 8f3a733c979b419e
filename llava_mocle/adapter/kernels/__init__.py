"""A site's products by the table of slots: loops on a CPU, kernels on a GPU, and the choice among them."""
