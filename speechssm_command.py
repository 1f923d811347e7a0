"""Starts the command `speechssm`.

Lies outside the package because it must act before anything of it, and with it KerasHub,
is imported.
"""

import os
import sys


def main() -> int:
    """Runs `speechssm` and returns its exit status."""
    backend = os.environ.setdefault("KERAS_BACKEND", "jax")
    if backend != "tensorflow" and sys.argv[1:2] != ["evaluate"]:
        # KerasHub imports TensorFlow, where it is installed, for its text tokenizers, which
        # evaluation alone may use: elsewhere this saves start-up seconds and notes on stderr.
        sys.modules.setdefault("tensorflow", None)
        sys.modules.setdefault("tensorflow_text", None)
    try:
        from keras_speechssm import cli
    except KeyboardInterrupt:
        print("speechssm: interrupted.", file=sys.stderr)
        return 130
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
