"""The ways to pool or to harmonise, each from training to what a trained model writes."""
