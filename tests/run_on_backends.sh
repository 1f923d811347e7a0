#!/bin/sh
# Runs the tests on each backend, all of them even if one fails; slow ones only if asked
# for: sh tests/run_on_backends.sh -m slow
# What does not depend on the backend runs on JAX only.
failed=""
chosen="not slow"
# What one test compiled on JAX, the next and the other process take from here.
if [ -z "$JAX_COMPILATION_CACHE_DIR" ]; then
    JAX_COMPILATION_CACHE_DIR=$(mktemp -d)
    trap 'rm -rf "$JAX_COMPILATION_CACHE_DIR"' EXIT
fi
export JAX_COMPILATION_CACHE_DIR
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
# They are many small programs, which take longer to compile than to run. The slow tests, and
# pytest by itself, compile as users do.
case "$*" in *slow*) ;; *) export XLA_FLAGS="$XLA_FLAGS --xla_backend_optimization_level=0" ;; esac
for backend in jax tensorflow torch; do
    echo "== $backend"
    # Whole files go to a process, whose fixtures are then made once.
    KERAS_BACKEND=$backend python -m pytest -q -n auto --dist loadfile -m "$chosen" "$@" ||
        failed="$failed $backend"
    chosen="not slow and not any_backend"
done
if [ -n "$failed" ]; then
    echo "Failed on:$failed"
    exit 1
fi
