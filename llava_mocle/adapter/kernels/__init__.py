"""A site's products on a GPU, by the table of slots that is there: several ways to compute them, and the choice."""
