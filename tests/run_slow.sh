#!/bin/sh
# Run the slow tests on each backend, and the tests of extras that are compiled on installation.
# Needs the environment of the README's test command.
set -e
pip install -q '.[train,eval]'
sh tests/run_on_backends.sh -m slow
KERAS_BACKEND=jax python -m pytest -q tests/evaluation tests/data tests/training \
    -k "codec_quality or speaker_embedding or pitch or tensorboard"
