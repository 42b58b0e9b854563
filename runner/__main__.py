"""``python -m runner`` is ``syncshift``."""

from runner.cli import main

main()
