"""Tables of participants: rows, labels, covariates, features and their calibration."""
