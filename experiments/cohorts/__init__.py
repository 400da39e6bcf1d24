"""Compares raw features, ComBat, the baselines of Lokhande et al. 2022 and ours on real multi-site tables."""
