"""An OpenAI front that routes every request to its cluster: own engine, or somebody else's behind it."""
