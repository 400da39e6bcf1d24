"""The ways to pool or harmonise, each from training to what a trained model writes."""
