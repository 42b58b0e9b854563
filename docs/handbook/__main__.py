"""``python -m docs.handbook``: writes the made parts of the reference, or the pictures."""

from __future__ import annotations

import argparse

from docs.handbook import pictures, reference


def main() -> int:
    """Make what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m docs.handbook", description=__doc__)
    parser.add_argument("what", choices=("reference", "pictures"))
    if parser.parse_args().what == "pictures":
        pictures.take()
    else:
        reference.write()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
