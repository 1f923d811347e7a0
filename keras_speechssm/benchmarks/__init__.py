"""What a user can run on their own hardware: `speechssm bench ...`.

A benchmark compares this package with its peers and with the machine's limit in one run.
Where models are compared, each measurement has a process of its own, so that none keeps
another's memory or threads.
"""
