"""The pooling and harmonisation methods, each from training to the output of a trained model."""
