"""Paper B's future work: image-level against feature-level pooling on one cohort."""
