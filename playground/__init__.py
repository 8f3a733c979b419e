"""The embedded demonstration: real pretrained parts and three small domains, all from package registries."""

from llava_mocle.io.libraries import quiet_libraries

quiet_libraries()  # before its commands import the libraries, and through the environment in every step of the demo
