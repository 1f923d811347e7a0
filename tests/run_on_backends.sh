#!/bin/sh
# Runs the tests on each backend, all of them even if one fails; slow ones only if asked
# for: sh tests/run_on_backends.sh -m slow
failed=""
for backend in jax tensorflow torch; do
    echo "== $backend"
    # Whole files go to a process, whose fixtures are then made once.
    KERAS_BACKEND=$backend python -m pytest -q -n auto --dist loadfile -m "not slow" "$@" ||
        failed="$failed $backend"
done
if [ -n "$failed" ]; then
    echo "Failed on:$failed"
    exit 1
fi
