"""From the official files of a dataset, as they are downloaded, to LLaVA rows. One file a dataset or a family."""
