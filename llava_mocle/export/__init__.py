"""A trained model -> what inference engines read."""
