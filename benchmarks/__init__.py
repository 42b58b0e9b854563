"""What is claimed about speed and memory, as commands anyone can run: ``python -m benchmarks``.

Machines differ and drift, so a figure is a ratio of two things measured in turn
in the same run wherever it can be one, and the median over several rounds.
Whatever is measured runs in a process of its own.
"""
