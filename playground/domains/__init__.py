"""The three domains of the demonstration; each module makes LLaVA rows and images from the fetched parts."""
