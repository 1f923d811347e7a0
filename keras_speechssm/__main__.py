"""The program `speechssm`, also `python -m keras_speechssm`.

It imports nothing at first, so that Ctrl-C gets one line while the command line is being imported.
"""

import sys


def main() -> int:
    """Run the command line of this process, and return the exit status."""
    try:
        from keras_speechssm.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("speechssm: interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
