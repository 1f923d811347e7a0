"""HuBERT with k-means: the tokens of GSLM, TWIST, and SlamKit."""
