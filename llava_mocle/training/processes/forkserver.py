"""Imported by the process that loader workers are forked from, and nowhere else.

It brings what workers need, and outlives a scheduler's signal as they do: they would end with it.
"""

import signal

import llava_mocle.data.dataset  # noqa: F401
from llava_mocle.training.processes.early_signals import SIGNALS

for number in SIGNALS:
    signal.signal(number, signal.SIG_IGN)
