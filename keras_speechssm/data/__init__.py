"""Corpora, segmentation, token stores, and packed training rows."""
