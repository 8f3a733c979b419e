"""The embedded demonstration: real pretrained parts and three small domains, all from package registries."""
