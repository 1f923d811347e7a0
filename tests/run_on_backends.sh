#!/bin/sh
# Run the tests on each backend, even if one fails. Arguments go to pytest: for the slow tests,
# sh tests/run_on_backends.sh -m slow
# Tests marked `any_backend` do not depend on the backend and run on JAX only; those marked
# `slow_to_compile` are fast on torch, and among the slow ones on JAX and TensorFlow or on the
# backends that the mark names.
failed=""
selected="not slow"
# Programs compiled by one test process are reused by the next.
if [ -z "$JAX_COMPILATION_CACHE_DIR" ]; then
    JAX_COMPILATION_CACHE_DIR=$(mktemp -d)
    trap 'rm -rf "$JAX_COMPILATION_CACHE_DIR"' EXIT
fi
export JAX_COMPILATION_CACHE_DIR
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
# The fast tests are many small programs that take longer to compile than to run. The slow tests,
# and pytest without this script, compile as users do.
case "$*" in *slow*) ;; *) export XLA_FLAGS="$XLA_FLAGS --xla_backend_optimization_level=0" ;; esac
for backend in jax tensorflow torch; do
    echo "== $backend"
    start=$(date +%s)
    # Whole files go to one process, so that their fixtures are made once.
    KERAS_BACKEND=$backend python -m pytest -q -n auto --dist loadfile -m "$selected" "$@" ||
        failed="$failed $backend"
    echo "== $backend took $(($(date +%s) - start)) s"
    selected="not slow and not any_backend"
done
if [ -n "$failed" ]; then
    echo "Failed on:$failed"
    exit 1
fi
