#!/bin/sh
# Runs the tests on each backend, all of them even if one fails.
failed=""
for backend in jax tensorflow torch; do
    echo "== $backend"
    KERAS_BACKEND=$backend python -m pytest -q -n auto "$@" || failed="$failed $backend"
done
if [ -n "$failed" ]; then
    echo "Failed on:$failed"
    exit 1
fi
