"""The cohorts that eqpool can load: a participants folder, public data sets, digits, simulations."""
