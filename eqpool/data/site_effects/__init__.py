"""Estimates the effects of sites (scanners) on features and voxels beside covariates and target. NumPy alone."""
